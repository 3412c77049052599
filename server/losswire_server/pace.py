"""How long batches take, learnt from those before; and who, by that, will hardly be in time.

In: what was computed, and how long it took. Out: a guess for the next of its kind. A guess decides
who goes first, never who is refused: an overloaded server that takes those who have waited longest
would begin, again and again, what it cannot end in time, and answer hardly anyone.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from losswire_server.groups import Waiting
    from losswire_server.requests import BatchKey

_RECENT: Final = 9
"""Batches of a kind of which the second slowest is expected: of those that follow most are faster,
and one that was held up changes nothing."""

_KINDS: Final = 256
"""That are remembered; the one that was not computed for the longest time is forgotten first."""


class Pace:
    """The seconds of recent batches. A kind is a batch key and a size, to a power of two."""

    def __init__(self) -> None:
        self._recent: dict[tuple[BatchKey, int], deque[float]] = {}

    def note(self, key: BatchKey, nbytes: int, seconds: float) -> None:
        """A batch of so many bytes took so long."""
        kind = (key, nbytes.bit_length())
        recent = self._recent.pop(kind, None) or deque(maxlen=_RECENT)
        recent.append(seconds)
        self._recent[kind] = recent
        if len(self._recent) > _KINDS:
            del self._recent[next(iter(self._recent))]

    def expected(self, key: BatchKey, nbytes: int) -> float:
        """The seconds that such a batch hardly exceeds; 0 where none is known."""
        recent = self._recent.get((key, nbytes.bit_length()))
        return sorted(recent)[-2:][0] if recent else 0.0

    def is_doubtful(self, waiting: Waiting, now: float) -> bool:
        """Whether a request would hardly be in time if it were begun now.

        It is not before half of its time has passed: whoever comes has a fair turn, however little
        time it gives.
        """
        if waiting.deadline is None:
            return False
        left, waited = waiting.deadline - now, now - waiting.arrival
        if left >= waited:
            return False
        form = waiting.request.form
        return left < self.expected(form.batch_key, form.nbytes)
