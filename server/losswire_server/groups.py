"""Requests that wait for a batch: those of one batch key together, in order of their turns.

In: requests that were handed in. Out: batches within limits, of those that are still wanted.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from losswire_server.errors import Expired

if TYPE_CHECKING:
    from collections.abc import Iterable

    from losswire_server.requests import LossRequest, LossResult


class Answer(Protocol):
    """Where the outcome of a request goes; a future is one."""

    def done(self) -> bool:
        """Whether no outcome is wanted any more."""

    def set_result(self, result: LossResult, /) -> None:
        """Takes the result."""

    def set_exception(self, error: Exception, /) -> None:
        """Takes what went wrong instead."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A request that was handed in."""

    request: LossRequest
    answer: Answer
    arrival: float
    deadline: float | None
    turn: int = 0
    is_urgent: bool = False
    """Whether its answer is due so soon that it is not held for company."""

    def is_wanted(self, now: float) -> bool:
        """Whether anyone still waits; one that is too late gets its error here."""
        if self.answer.done():
            return False
        if self.deadline is not None and now >= self.deadline:
            self.answer.set_exception(Expired("the deadline passed before anything was computed"))
            return False
        return True


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """When a batch is full, and how long it waits to become so."""

    rows: int
    nbytes: int
    wait_us: int

    def hold(self, rows: int, nbytes: int) -> bool:
        """Whether so much fits one batch."""
        return rows <= self.rows and nbytes <= self.nbytes


class Group:
    """Requests of one batch key, in order of their turns, and what they add up to."""

    def __init__(self) -> None:
        self._queue: deque[Waiting] = deque()
        self._urgent = 0
        self.rows = 0
        self.nbytes = 0
        self.first_arrival = 0.0
        """Since when someone waits here; whoever has an earlier turn does not begin it anew."""

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def is_urgent(self) -> bool:
        """Whether one of them is not to be held for company."""
        return self._urgent > 0

    @property
    def first(self) -> Waiting:
        """The request that is next."""
        return self._queue[0]

    @property
    def turn(self) -> int:
        """Of the request that is next."""
        return self._queue[0].turn

    def add(self, waiting: Waiting) -> None:
        """Takes a request to where its turn is."""
        queue = self._queue
        if not queue:
            self.first_arrival = waiting.arrival
        if not queue or queue[-1].turn <= waiting.turn:
            queue.append(waiting)
        else:
            insort(queue, waiting, key=_turn_of)
        self._urgent += waiting.is_urgent
        form = waiting.request.form
        self.rows += form.rows
        self.nbytes += form.nbytes

    def discard(self, waiting: Waiting) -> None:
        """Removes a request that nobody waits for, if it has not left yet."""
        for index, each in enumerate(self._queue):
            if each is waiting:
                del self._queue[index]
                self._urgent -= waiting.is_urgent
                self.rows -= waiting.request.rows
                self.nbytes -= waiting.request.nbytes
                return

    def all(self) -> Iterable[Waiting]:
        """Those that wait."""
        return tuple(self._queue)

    def take(self, limits: BatchLimits, now: float) -> list[Waiting]:
        """Removes the next batch: as many wanted requests as fit, or a single larger one."""
        batch: list[Waiting] = []
        rows = nbytes = 0
        while self._queue:
            form = self._queue[0].request.form
            if batch and not limits.hold(rows + form.rows, nbytes + form.nbytes):
                break
            waiting = self._queue.popleft()
            self._urgent -= waiting.is_urgent
            self.rows -= form.rows
            self.nbytes -= form.nbytes
            if waiting.is_wanted(now):
                batch.append(waiting)
                rows, nbytes = rows + form.rows, nbytes + form.nbytes
        if self._queue:
            self.first_arrival = self._queue[0].arrival
        return batch


def _turn_of(waiting: Waiting) -> int:
    return waiting.turn
