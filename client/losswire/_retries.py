"""Another try for a call that was refused or cut off, when it is safe and worth it.

In: a way to begin a plan, which starts from the caller's arrays each time. Out: the plan, begun
again after a pause for as long as it fails with `ServerBusy` or `ServerUnavailable`. Whoever
carries the plan out ends it at the call's deadline.

Every call is a pure function of its input, so that any retry is safe as long as the input is what
it was; a path that has written over it says so with `CannotRepeat`. Pauses grow exponentially, with
jitter, and never end before the server's own retry delay. A budget that only successes refill keeps
many callers from storming a server that is on its way down.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final, TypeVar

from losswire._calls import Pause
from losswire._errors import LosswireError, ServerBusy, ServerUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from losswire._calls import Plan

ResultT = TypeVar("ResultT")

SHORTEST_PAUSE: Final = 0.05
"""Seconds before the second try, less the jitter; doubled for each further one."""

LONGEST_PAUSE: Final = 2.0
"""Seconds that pauses grow to."""

FIRST_TRIES: Final = 6
"""Of a call while the server has never answered this client: 1.5 s, for one that is starting. Then
the address is more likely wrong, and the caller should hear of it before the deadline."""

RESERVE: Final = 500.0
"""Retries that a client has in hand: each of its calls in flight may need one at the same time."""

EARNED: Final = 0.1
"""Retries that a success puts back: in the long run, no more than a tenth of the load is added."""


class CannotRepeat(Exception):  # noqa: N818 -- no fault of its own
    """A call failed after its input was written over.

    Attributes:
        error: what the caller gets.
    """

    def __init__(self, error: LosswireError) -> None:
        super().__init__(str(error))
        self.error = error


class Retries:
    """The retries of one client. Without locks: a lost update costs a tenth of a retry.

    Args:
        are_wanted: False for none.
    """

    def __init__(self, *, are_wanted: bool = True) -> None:
        self._reserve = RESERVE if are_wanted else 0.0
        self._left = self._reserve
        self._has_answered = False

    def of(self, begin: Callable[[], Plan[ResultT]]) -> Plan[ResultT]:
        """The plan that `begin` makes, begun again as often as it takes."""
        tries = 0
        while True:
            try:
                result = yield from begin()
            except CannotRepeat as failure:
                raise failure.error from failure.__cause__
            except (ServerBusy, ServerUnavailable) as error:
                tries += 1
                if not self._spend(error, tries):
                    raise
                pause = Pause(pause_before(tries, error.retry_delay), error)
            else:
                self._earn()
                return result
            yield pause
            del pause  # its error knows the frames, and so the memory, of the try that failed

    def _spend(self, error: ServerBusy | ServerUnavailable, tries: int) -> bool:
        """Takes one retry, if there is one for a call that has failed so often."""
        self._has_answered = self._has_answered or isinstance(error, ServerBusy)
        delay = error.retry_delay
        is_told_off = delay is not None and delay < 0
        if self._left < 1 or is_told_off or not (self._has_answered or tries < FIRST_TRIES):
            return False
        self._left -= 1
        return True

    def _earn(self) -> None:
        self._has_answered = True
        if self._left < self._reserve:
            self._left = min(self._left + EARNED, self._reserve)


def pause_before(tries: int, told: float | None) -> float:
    """Seconds to wait after so many tries; `told` is the server's own delay, if it has one."""
    grown = min(LONGEST_PAUSE, SHORTEST_PAUSE * 2.0 ** min(tries - 1, 30))
    own = grown * random.uniform(0.5, 1.0)  # noqa: S311 -- it spreads callers, and hides nothing
    return own if told is None else max(told, 0.0) + own
