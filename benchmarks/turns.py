"""Contenders measured in one run, in turns.

In: contenders, each of which makes itself ready, has its answer checked, and then measures one turn
whenever it is told to. Out: what all its turns came to. Machines get slower and faster while a
benchmark runs; taking turns, that happens to all alike, and the ratios stay good.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from losswire.bench.problem import WrongResult

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Turn = Callable[[], float]


class Absent(Exception):  # noqa: N818 -- a state rather than a fault
    """A contender that cannot take part; the message is what its row says."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One of those that are compared.

    Attributes:
        name: of its row.
        prepare: sets it up, holds its answer to the right one and returns what measures a turn.
            Raises `Absent` where it is not installed or not in this version, and `WrongResult`
            where its answer is wrong.
    """

    name: str
    prepare: Callable[[], Turn]


@dataclass(frozen=True, slots=True)
class Measured:
    """What the turns of a contender came to.

    Attributes:
        values: one for each turn; none where it did not take part.
        note: why it did not.
        is_wrong: whether that was because of a wrong answer.
    """

    values: tuple[float, ...] = ()
    note: str = ""
    is_wrong: bool = False

    @property
    def median(self) -> float | None:
        """The middle value."""
        return statistics.median(self.values) if self.values else None

    @property
    def quartiles(self) -> tuple[float, float] | None:
        """The values at a quarter and at three quarters."""
        if not self.values:
            return None
        if len(self.values) == 1:
            return self.values[0], self.values[0]
        lower, _, upper = statistics.quantiles(self.values, n=4, method="inclusive")
        return lower, upper


def in_turns(
    contenders: Sequence[Contender],
    rounds: int,
    *,
    warm_up: int = 2,
    settle_seconds: float = 0.0,
    calls: int = 1,
) -> dict[str, Measured]:
    """Prepares all, then lets each measure one turn a round.

    Each round starts with another contender, so that nobody always comes after the same one.

    Args:
        contenders: who takes part; names differ.
        rounds: turns of each.
        warm_up: turns before those, not counted.
        settle_seconds: pause before each turn, for threads that spin for a while when their work
            is done, as those of the frameworks do.
        calls: in a row that make a turn, of which the median counts. After a pause threads may
            share a core for a while, whoever's they are.

    Returns:
        What each came to, by name, in the order given.
    """
    notes: dict[str, Measured] = {}
    turns: list[tuple[str, Turn]] = []
    for contender in contenders:
        try:
            turns.append((contender.name, contender.prepare()))
        except Absent as absence:
            notes[contender.name] = Measured(note=str(absence))
        except WrongResult as error:
            notes[contender.name] = Measured(note=f"wrong: {error}", is_wrong=True)
    values: dict[str, list[float]] = {name: [] for name, _ in turns}
    for number in range(-warm_up, rounds):
        first = number % max(1, len(turns))
        for name, turn in turns[first:] + turns[:first]:
            time.sleep(settle_seconds)
            value = statistics.median(turn() for _ in range(calls))
            if number >= 0:
                values[name].append(value)
    measured = {name: Measured(tuple(each)) for name, each in values.items()}
    return {each.name: (measured | notes)[each.name] for each in contenders}


def seconds(call: Callable[[], object], before: Callable[[], object] | None = None) -> Turn:
    """A turn that is one call, in seconds.

    Args:
        call: what is timed; what it returns is dropped after the clock has stopped.
        before: called first, untimed.
    """

    def turn() -> float:
        if before is not None:
            before()
        start = time.perf_counter()
        result = call()
        end = time.perf_counter()
        del result
        return end - start

    return turn
