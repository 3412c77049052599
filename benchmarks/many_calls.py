"""Many small calls: how many a second from one process, and what each costs the server.

In: how many in flight. Out: rates beside mosec's, an echo's and the engine's; and processor time
of the server per call beside that of an echo server. Every caller asks something else, and all
answers of the first burst are checked: a reply that went to the wrong caller would be found out.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import losswire
from benchmarks import contenders, echo, targets
from benchmarks.mosec_client import MosecServer, ask, decode, encode, ready
from benchmarks.processes import cpu_seconds
from benchmarks.rows import Row, Table
from benchmarks.turns import Contender, in_turns
from losswire.bench.problem import Problem
from losswire_server import LocalServer
from losswire_server.engine.numpy_engine import NumpyEngine

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from benchmarks.contenders import Setting
    from benchmarks.loop import Loop
    from benchmarks.rows import Target
    from benchmarks.turns import Turn

_MOSEC: Final = ((1, 64), (1, 16), (2, 1))
"""Workers and batch size; it gets to use the best of these."""


def small_calls(
    setting: Setting, shape: tuple[int, int] = (8, 10), in_flight: int = 64, calls: int = 2_000
) -> list[Table]:
    """Calls per second of one process that has many in flight."""
    problems = _problems(shape, in_flight)
    with ExitStack() as stack:
        target = stack.enter_context(LocalServer(engine="numpy")).target
        echo_target = stack.enter_context(echo.EchoServer()).target
        pool = stack.enter_context(ThreadPoolExecutor(in_flight))
        mosecs = [
            _mosec(problems, setting.loop, stack, calls, workers, batch)
            for workers, batch in _MOSEC
        ]
        ours = [
            _threads(problems, target, pool, stack, calls),
            _tasks(problems, target, setting.loop, stack, calls),
        ]
        figures = in_turns(
            [
                _engine(problems, stack),
                _echo_threads(problems, echo_target, pool, stack, calls),
                _echo_tasks(problems, echo_target, setting.loop, stack, calls),
                *mosecs,
                *ours,
            ],
            setting.rounds,
        )
    rates = {name: each.median for name, each in figures.items() if each.median is not None}
    rivals = [each.name for each in mosecs if each.name in rates]
    best = max(rivals, key=lambda name: rates[name], default=None)

    def row(name: str, ceiling: str | None, target: Target | None = None) -> Row:
        beside = "" if ceiling in {name, None} else str(ceiling)
        return Row(name, figures[name], "1/s", beside, rates.get(beside), target)

    engine_name, threads_echo, tasks_echo = list(figures)[:3]
    rows = [row(name, engine_name) for name in figures]
    for own, own_echo in zip(ours, (threads_echo, tasks_echo), strict=True):
        rows.append(row(own.name, own_echo))
        rows.append(row(own.name, best, targets.SMALL_TO_MOSEC))
    title = f"Calls of {shape[0]} x {shape[1]} float32 a second, {in_flight} in flight"
    return [Table(title, rows)]


def server_time(
    setting: Setting, shape: tuple[int, int] = (8, 10), clients: int = 64, calls: int = 3_000
) -> list[Table]:
    """Processor time of the server per call, each of many clients with a connection of its own.

    They stand for as many processes with one call each: nothing can be sent together.
    """
    problems = _problems(shape, clients)
    name, echo_name = "call, one message", "unary echo"
    with ExitStack() as stack:
        server = stack.enter_context(LocalServer(engine="numpy"))
        echo_server = stack.enter_context(echo.EchoServer())
        pool = stack.enter_context(ThreadPoolExecutor(clients))

        def prepare() -> Turn:
            connected = [contenders.connect(server.target, "inline", stack) for _ in range(clients)]
            for problem, client in zip(problems, connected, strict=True):
                contenders.check_first(problem, client)
            burst = _burst(pool, clients, calls, lambda i: problems[i].call(connected[i]))
            return _cpu_per_call(server.pid, burst, calls)

        def prepare_echo() -> Turn:
            messages = [problem.logits.tobytes() for problem in problems]
            methods = [
                stack.enter_context(echo.channel(echo_server.target)).unary_unary(echo.UNARY)
                for _ in range(clients)
            ]
            for message, method in zip(messages, methods, strict=True):
                echo.check((message,), (method(message),))
            burst = _burst(pool, clients, calls, lambda i: methods[i](messages[i]))
            return _cpu_per_call(echo_server.pid, burst, calls)

        figures = in_turns(
            [Contender(echo_name, prepare_echo), Contender(name, prepare)], setting.rounds
        )
    title = f"Processor time of the server per call of {shape[0]} x {shape[1]}, {clients} clients"
    ceiling = figures[echo_name].median
    return [
        Table(
            title,
            [
                Row(echo_name, figures[echo_name]),
                Row(name, figures[name], "s", echo_name, ceiling, targets.SERVER_TIME_TO_ECHO),
            ],
        )
    ]


def _problems(shape: tuple[int, int], count: int) -> list[Problem]:
    return [Problem.make("softmax_cross_entropy", shape, "float32", seed) for seed in range(count)]


def _engine(problems: Sequence[Problem], stack: ExitStack) -> Contender:
    def prepare() -> Turn:
        computing = NumpyEngine()
        stack.callback(computing.close)
        requests = [contenders.engine_request(problem) for problem in problems]
        for problem, result in zip(problems, computing.compute(requests), strict=True):
            problem.check(result)
        return _rate(lambda: computing.compute(requests), len(requests))

    return Contender("engine in process, one batch", prepare)


def _threads(
    problems: Sequence[Problem],
    target: str,
    pool: ThreadPoolExecutor,
    stack: ExitStack,
    calls: int,
) -> Contender:
    def prepare() -> Turn:
        client = contenders.connect(target, "auto", stack)
        results = pool.map(lambda problem: problem.call(client), problems)
        for problem, result in zip(problems, results, strict=True):
            problem.check(result)
        burst = _burst(pool, len(problems), calls, lambda i: problems[i].call(client))
        return _rate(burst, calls)

    return Contender("synchronous client, threads", prepare)


def _tasks(
    problems: Sequence[Problem], target: str, loop: Loop, stack: ExitStack, calls: int
) -> Contender:
    async def connect() -> losswire.AsyncClient:
        return losswire.AsyncClient(target)

    def prepare() -> Turn:
        client = loop.run(connect())
        stack.callback(lambda: loop.run(client.close()))
        results = loop.run(_gathered(len(problems), lambda i: problems[i].call(client)))
        for problem, result in zip(problems, results, strict=True):
            problem.check(result)
        return _async_rate(loop, len(problems), calls, lambda i: problems[i].call(client))

    return Contender("asynchronous client, tasks", prepare)


def _echo_threads(
    problems: Sequence[Problem],
    target: str,
    pool: ThreadPoolExecutor,
    stack: ExitStack,
    calls: int,
) -> Contender:
    def prepare() -> Turn:
        method = stack.enter_context(echo.channel(target)).unary_unary(echo.UNARY)
        messages = [problem.logits.tobytes() for problem in problems]
        echo.check(messages, pool.map(method, messages))
        return _rate(_burst(pool, len(messages), calls, lambda i: method(messages[i])), calls)

    return Contender("unary echo, threads", prepare)


def _echo_tasks(
    problems: Sequence[Problem], target: str, loop: Loop, stack: ExitStack, calls: int
) -> Contender:
    async def connect() -> Any:
        return echo.aio_channel(target)

    def prepare() -> Turn:
        channel = loop.run(connect())
        stack.callback(lambda: loop.run(channel.close()))
        method = channel.unary_unary(echo.UNARY)
        messages = [problem.logits.tobytes() for problem in problems]
        echo.check(messages, loop.run(_gathered(len(messages), lambda i: method(messages[i]))))
        return _async_rate(loop, len(messages), calls, lambda i: method(messages[i]))

    return Contender("unary echo, tasks", prepare)


def _mosec(
    problems: Sequence[Problem],
    loop: Loop,
    stack: ExitStack,
    calls: int,
    workers: int,
    batch: int,
) -> Contender:
    async def connect() -> Any:
        import aiohttp  # noqa: PLC0415 -- optional; `MosecServer` has looked for it

        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    def prepare() -> Turn:
        server = stack.enter_context(MosecServer(workers, batch))
        session = loop.run(connect())
        stack.callback(lambda: loop.run(session.close()))
        loop.run(ready(server, session, problems[0]))
        messages = [encode(problem) for problem in problems]

        def one(index: int) -> Awaitable[bytes]:
            return ask(session, server.url, messages[index])

        for problem, reply in zip(problems, loop.run(_gathered(len(messages), one)), strict=True):
            problem.check(decode(reply, problem))
        return _async_rate(loop, len(messages), calls, one)

    return Contender(f"mosec, {workers} x batches of {batch}", prepare)


def _burst(
    pool: ThreadPoolExecutor, callers: int, calls: int, one: Callable[[int], object]
) -> Callable[[], None]:
    """Makes `calls` calls, shared equally by as many threads as there are callers."""
    per_caller = _shares(calls, callers)

    def caller(index: int) -> None:
        for _ in range(per_caller[index]):
            one(index)

    def burst() -> None:
        list(pool.map(caller, range(callers)))

    return burst


def _rate(burst: Callable[[], object], calls: int) -> Turn:
    def turn() -> float:
        start = time.perf_counter()
        burst()
        return calls / (time.perf_counter() - start)

    return turn


def _async_rate(
    loop: Loop, callers: int, calls: int, one: Callable[[int], Awaitable[object]]
) -> Turn:
    per_caller = _shares(calls, callers)

    async def caller(index: int) -> None:
        for _ in range(per_caller[index]):
            await one(index)

    turn = loop.seconds(lambda: _gathered(callers, caller))
    return lambda: calls / turn()


def _cpu_per_call(pid: int, burst: Callable[[], None], calls: int) -> Turn:
    def turn() -> float:
        before = cpu_seconds(pid)
        burst()
        return (cpu_seconds(pid) - before) / calls

    return turn


async def _gathered(count: int, one: Callable[[int], Awaitable[Any]]) -> list[Any]:
    return await asyncio.gather(*(one(index) for index in range(count)))


def _shares(whole: int, parts: int) -> list[int]:
    return [whole // parts + (index < whole % parts) for index in range(parts)]
