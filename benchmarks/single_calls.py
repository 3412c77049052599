"""One call at a time: the engine, a caller on the same host, a stream, one message.

In: shapes. Out: a table for each comparison, rows beside their ceilings.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from benchmarks import contenders, targets
from benchmarks.echo import EchoServer
from benchmarks.frameworks import FRAMEWORKS, USUAL, framework
from benchmarks.rows import Row, Table
from benchmarks.turns import Measured, in_turns
from losswire.bench.problem import Problem
from losswire_server import LocalServer

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from benchmarks.contenders import Setting
    from benchmarks.rows import Target

    Shape = tuple[int, int]

_COPY: Final = "copy of the logits"
_ENGINE: Final = "engine in process"
_IN_A_ROW: Final = 5
"""Calls of megabytes that make a turn."""

_SHORT: Final = 20
"""Times as many turns for calls of a millisecond or so."""


def engine(
    setting: Setting,
    shapes: Iterable[Shape] = ((8_192, 1_000), (512, 32_000), (64, 128_256), (65_536, 10)),
) -> list[Table]:
    """The engine beside a copy and beside the frameworks, all in this process."""
    tables = []
    for shape in shapes:
        problem = softmax(shape)
        with ExitStack() as stack:
            figures = in_turns(
                [
                    contenders.copy(problem),
                    contenders.engine(problem, stack),
                    *(framework(name, problem) for name in FRAMEWORKS),
                ],
                setting.rounds,
                settle_seconds=setting.settle_seconds,
                calls=_IN_A_ROW,
            )
        moved = problem.bytes_per_call
        table = Table(f"Engine and frameworks in process, {named(shape)}")
        is_many = shape[1] >= targets.MANY_CLASSES
        for name in figures:
            goal = targets.ENGINE_TO_COPY if is_many and name == _ENGINE else None
            table.rows.append(beside(name, figures, _COPY, moved, goal))
        fastest = least(figures, USUAL)
        if fastest is not None:
            goal = targets.ENGINE_TO_FRAMEWORK if is_many else targets.ENGINE_TO_FRAMEWORK_FEW
            table.rows.append(beside(_ENGINE, figures, fastest, moved, goal))
        tables.append(table)
    return tables


def same_host(setting: Setting, shape: Shape = (8_192, 1_000)) -> list[Table]:
    """Calls through shared memory, beside PyTorch in the caller's process and the engine."""
    problem, ordinary = softmax(shape), "shared memory, ordinary arrays"
    own, over = "shared memory, client.empty", "shared memory, client.empty, overwritten"
    with ExitStack() as stack:
        target = stack.enter_context(LocalServer(engine="numpy")).target
        figures = in_turns(
            [
                contenders.engine(problem, stack),
                framework("PyTorch", problem),
                contenders.call(ordinary, problem, target, "shared", stack),
                contenders.call_with_own_arrays(own, problem, target, stack),
                contenders.call_with_own_arrays(over, problem, target, stack, overwrite=True),
                contenders.call("path chosen by the client", problem, target, "auto", stack),
            ],
            setting.rounds,
            settle_seconds=setting.settle_seconds,
            calls=_IN_A_ROW,
        )
    moved = problem.bytes_per_call
    table = Table(f"Calls on the same host, {named(shape)}")
    table.rows.append(beside("PyTorch", figures, _ENGINE, moved))
    for name in list(figures)[2:]:
        goal = targets.SHARED_TO_TORCH if name == ordinary else None
        table.rows.append(beside(name, figures, "PyTorch", moved, goal))
        goal = targets.OWN_ARRAYS_TO_ENGINE if name == own else None
        table.rows.append(beside(name, figures, _ENGINE, moved, goal))
    return [table]


def streamed(
    setting: Setting, shapes: Iterable[Shape] = ((8_192, 1_000), (512, 32_000))
) -> list[Table]:
    """A call in row blocks, beside an echo of its bytes followed by the engine."""
    tables = []
    for place in ("a Unix socket", "loopback TCP"):
        for shape in shapes:
            with ExitStack() as stack:
                server, echo = _servers(place, stack)
                tables.append(_streamed(setting, shape, place, server.target, echo.target))
    return tables


def _streamed(setting: Setting, shape: Shape, place: str, target: str, echo_target: str) -> Table:
    problem = softmax(shape)
    paths = {"stream": "call, streamed", "inline": "call, one message", "auto": "call, auto"}
    with ExitStack() as stack:
        echoes = contenders.echo_streams(problem, echo_target, setting, stack)
        calls = [
            contenders.call(name, problem, target, path, stack) for path, name in paths.items()
        ]
        floors = [contenders.copy(problem), contenders.engine(problem, stack)]
        figures = in_turns([*floors, *echoes, *calls], setting.rounds, warm_up=1, calls=_IN_A_ROW)
    table, moved = Table(f"Calls over {place}, {named(shape)}"), problem.bytes_per_call
    for each in (*floors, *echoes):
        table.rows.append(beside(each.name, figures, _COPY, moved))
    best = least(figures, [each.name for each in echoes])
    for each in calls:
        goal = targets.STREAMED_TO_ECHO if each.name == paths["stream"] else None
        table.rows.append(after_echo(each.name, figures, best, moved, goal))
    return table


def one_shot(setting: Setting, shape: Shape = (64, 1_000)) -> list[Table]:
    """A call in one message, beside an echo of its bytes followed by the engine."""
    problem, name = softmax(shape), "call, one message"
    with ExitStack() as stack:
        server, echo = _servers("loopback TCP", stack)
        figures = in_turns(
            [
                contenders.engine(problem, stack),
                contenders.echo_unary(problem, echo.target, stack),
                contenders.call(name, problem, server.target, "inline", stack),
            ],
            setting.rounds * _SHORT,
        )
    table = Table(f"One message each way over loopback TCP, {named(shape)}")
    moved = problem.bytes_per_call
    table.rows += [beside(each, figures, "", moved) for each in (_ENGINE, "unary echo")]
    table.rows.append(after_echo(name, figures, "unary echo", moved, targets.ONE_SHOT_TO_ECHO))
    return [table]


def _servers(place: str, stack: ExitStack) -> tuple[LocalServer, EchoServer]:
    if place == "a Unix socket":
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="losswire-"))
        server = LocalServer(engine="numpy", unix_socket=f"{folder}/losswire")
        return stack.enter_context(server), stack.enter_context(EchoServer(f"unix:{folder}/echo"))
    server = stack.enter_context(LocalServer(engine="numpy"))
    return server, stack.enter_context(EchoServer())


def softmax(shape: Shape) -> Problem:
    """The problem of all comparisons: cross-entropy of float32 logits with class ids."""
    return Problem.make("softmax_cross_entropy", shape, "float32")


def named(shape: Shape) -> str:
    """A shape for a title."""
    return " x ".join(f"{size:,}" for size in shape) + " float32"


def least(figures: Mapping[str, Measured], names: Iterable[str]) -> str | None:
    """The fastest of some contenders, None where none took part."""
    medians = {name: figures[name].median for name in names}
    present = {name: median for name, median in medians.items() if median is not None}
    return min(present, key=lambda name: present[name]) if present else None


def beside(
    name: str,
    figures: Mapping[str, Measured],
    ceiling: str,
    moved: int,
    target: Target | None = None,
) -> Row:
    """A row beside another contender."""
    ceiling = "" if ceiling == name else ceiling
    value = figures[ceiling].median if ceiling else None
    return Row(name, figures[name], "s", ceiling, value, target, moved)


def after_echo(
    name: str,
    figures: Mapping[str, Measured],
    echo: str | None,
    moved: int,
    target: Target | None = None,
) -> Row:
    """A row beside an echo and the engine, one after the other.

    So its ceiling as a rate is 1 / (1/echo + 1/engine).
    """
    parts = [figures[each].median for each in (echo, _ENGINE) if each is not None]
    whole = sum(part for part in parts if part is not None) if None not in parts else None
    return Row(name, figures[name], "s", f"{echo or 'echo'} + engine", whole, target, moved)
