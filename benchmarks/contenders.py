"""The contenders that several comparisons share: copy, engine, calls, and echoes.

Each takes the problem to work on and a stack that closes what it opens, and is checked against long
double, or against the bytes that were sent, before it is measured.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

import losswire
from benchmarks import echo
from benchmarks.turns import Absent, Contender, seconds
from losswire_proto.losses import LossCall
from losswire_server.engine.numpy_engine import NumpyEngine
from losswire_server.requests import LossRequest

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack

    from benchmarks.loop import Loop
    from benchmarks.turns import Turn
    from losswire.bench.problem import Problem
    from losswire_proto.dtypes import Array

NOT_THERE: Final = "not in this version"

BLOCK_BYTES: Final = (256 << 10, 1 << 20, 2 << 20, 4 << 20)
"""Message sizes of which the streamed echo gets to use the best."""


@dataclass(slots=True)
class Setting:
    """How a run measures.

    Attributes:
        rounds: turns of each contender.
        loop: the event loop of all asynchronous contenders.
        settle_seconds: pause before each turn of the comparisons that frameworks take part in.
    """

    rounds: int
    loop: Loop
    settle_seconds: float = 0.02


def copy(problem: Problem) -> Contender:
    """Copying the logits into an array that has been touched: the floor of any computing."""

    def prepare() -> Turn:
        target = np.zeros_like(problem.logits)
        return seconds(lambda: np.copyto(target, problem.logits))

    return Contender("copy of the logits", prepare)


def engine_request(problem: Problem) -> LossRequest:
    """A problem of `softmax_cross_entropy` as the engine takes it."""
    logits, ids = problem.arguments
    return LossRequest(LossCall(grad_logits=True), logits, logits.ndim - 1, ids, "ids")


def engine(problem: Problem, stack: ExitStack) -> Contender:
    """The engine in this process."""

    def prepare() -> Turn:
        computing = NumpyEngine()
        stack.callback(computing.close)
        request = engine_request(problem)
        problem.check(computing.compute([request])[0])
        return seconds(lambda: computing.compute([request]))

    return Contender("engine in process", prepare)


def call(name: str, problem: Problem, target: str, transport: str, stack: ExitStack) -> Contender:
    """A call of the synchronous client with ordinary arrays."""

    def prepare() -> Turn:
        client = connect(target, transport, stack)
        check_first(problem, client)
        return seconds(lambda: problem.call(client))

    return Contender(name, prepare)


def call_with_own_arrays(
    name: str, problem: Problem, target: str, stack: ExitStack, *, overwrite: bool = False
) -> Contender:
    """A call through shared memory with logits in an array that the client made.

    With `overwrite` the gradient is written over them, and they are put back before each turn.
    """

    def prepare() -> Turn:
        client = connect(target, "shared", stack)
        parameters = inspect.signature(client.softmax_cross_entropy).parameters
        if not hasattr(client, "empty") or (overwrite and "overwrite_logits" not in parameters):
            raise Absent(NOT_THERE)
        logits: Array = client.empty(problem.logits.shape, problem.logits.dtype)
        keywords = {"overwrite_logits": True} if overwrite else {}
        own = replace(problem, arguments=(logits, *problem.arguments[1:]), keywords=keywords)

        def fill() -> None:
            logits[...] = problem.logits

        fill()
        check_first(own, client)
        fill()
        return seconds(lambda: own.call(client), fill if overwrite else None)

    return Contender(name, prepare)


def connect(target: str, transport: str, stack: ExitStack) -> losswire.Client:
    """A client that takes one path.

    Raises:
        Absent: this version does not have it.
    """
    try:
        client = losswire.Client(target, transport=transport, timeout=600.0)
    except losswire.InvalidInput as error:
        raise Absent(NOT_THERE) from error
    return stack.enter_context(client)


def check_first(problem: Problem, client: losswire.Client) -> None:
    """The first call: its answer is held to the right one.

    Raises:
        Absent: the path cannot be used with this server.
    """
    try:
        result = problem.call(client)
    except losswire.LosswireError as error:
        raise Absent(f"cannot be used: {error}") from error
    problem.check(result)


def echo_streams(
    problem: Problem, target: str, setting: Setting, stack: ExitStack
) -> list[Contender]:
    """The logits as a stream and back, by both kinds of client and in several message sizes."""
    sync = stack.enter_context(echo.channel(target))
    aio = setting.loop.run(_connected(target))
    stack.callback(lambda: setting.loop.run(aio.close()))

    def by_sync(blocks: echo.Blocks) -> Callable[[], Turn]:
        def prepare() -> Turn:
            echo.check(blocks, echo.stream(sync, blocks))
            return seconds(lambda: echo.drain(echo.stream(sync, blocks)))

        return prepare

    def by_aio(blocks: echo.Blocks) -> Callable[[], Turn]:
        def prepare() -> Turn:
            echo.check(blocks, setting.loop.run(echo.aio_stream(aio, blocks)))
            return setting.loop.seconds(lambda: echo.aio_stream(aio, blocks))

        return prepare

    sizes = [size for size in BLOCK_BYTES if size <= problem.logits.nbytes] or [BLOCK_BYTES[0]]
    contenders = []
    for size in sizes:
        blocks = echo.cut(problem.logits, size)
        label = f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB"
        contenders.append(Contender(f"streamed echo, {label}", by_sync(blocks)))
        contenders.append(Contender(f"streamed echo, {label}, asyncio", by_aio(blocks)))
    return contenders


def echo_unary(problem: Problem, target: str, stack: ExitStack) -> Contender:
    """The logits as one message and back."""

    def prepare() -> Turn:
        method = stack.enter_context(echo.channel(target)).unary_unary(echo.UNARY)
        (message,) = echo.cut(problem.logits, problem.logits.nbytes)
        echo.check((message,), (method(message),))
        return seconds(lambda: method(message))

    return Contender("unary echo", prepare)


async def _connected(target: str) -> echo.AioChannel:
    return echo.aio_channel(target)
