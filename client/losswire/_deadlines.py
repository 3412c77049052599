"""Deadlines of many calls on one event loop, with few timers.

A timer of its own for each call would cost more than sending it. Calls whose deadlines lie close
together share one, which goes off after the last of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

_STEP: Final = 0.05
"""Seconds that deadlines are rounded up to: a twentieth of the shortest that is."""

_EXACT: Final = 1.0
"""Seconds below which a call has its own timer."""


class Late(Protocol):
    """What waits no longer than its deadline; hashable."""

    def give_up(self) -> None:
        """Waits no longer; nothing, if what it waited for has come."""


class Deadlines:
    """The deadlines of one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._due: dict[int, set[Late]] = {}

    def add(self, late: Late, seconds: float) -> Callable[[], object]:
        """Has `late` give up after so many seconds; what is returned takes that back."""
        if seconds < _EXACT:
            return self.loop.call_later(seconds, late.give_up).cancel
        step = int((self.loop.time() + seconds) / _STEP) + 1
        together = self._due.get(step)
        if together is None:
            together = self._due[step] = set()
            self.loop.call_at(step * _STEP, self._pass, step)
        together.add(late)
        return lambda: together.discard(late)

    def _pass(self, step: int) -> None:
        for late in self._due.pop(step):
            late.give_up()
