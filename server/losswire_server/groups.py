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
    from collections.abc import Hashable, Iterable

    from losswire_server.pace import Pace
    from losswire_server.requests import LossRequest, LossResult
    from losswire_server.turns import Turns


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
    client: Hashable = None
    turn: int = 0
    is_urgent: bool = False
    """Whether its answer is due so soon that it is not held for company."""
    is_queued: bool = False
    """Whether it is in a group: it has neither left with a batch nor been taken back."""

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
    """Requests of one batch key, in order of their turns, and what they add up to.

    Those that will hardly be in time stand aside once their turn comes: they are next when nobody
    else waits here, in the order of their deadlines, and hear when these have passed.

    Of one that is taken back the place stays, without the request, until it would be next or half
    of all places are such: a client that goes may take back thousands.
    """

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._queue: deque[Waiting] = deque()
        self._doubtful: deque[Waiting] = deque()
        self._waiting = self._empty = 0
        self._urgent = 0
        self.rows = 0
        self.nbytes = 0
        self.first_arrival = 0.0
        """Since when someone waits here; whoever has an earlier turn does not begin it anew."""

    def __len__(self) -> int:
        return self._waiting

    @property
    def is_urgent(self) -> bool:
        """Whether one of them is not to be held for company."""
        return self._urgent > 0

    @property
    def is_doubtful(self) -> bool:
        """Whether none is left of which nobody doubts that it will be in time."""
        return not self._queue

    @property
    def first(self) -> Waiting:
        """The request that is next."""
        return (self._queue or self._doubtful)[0]

    @property
    def turn(self) -> int:
        """Of the request that is next."""
        return self.first.turn

    def add(self, waiting: Waiting) -> None:
        """Takes a request to where its turn is."""
        queue = self._queue
        if not self:
            self.first_arrival = waiting.arrival
        if not queue or queue[-1].turn <= waiting.turn:
            queue.append(waiting)
        else:
            insort(queue, waiting, key=_turn_of)
        waiting.is_queued = True
        self._waiting += 1
        self._urgent += waiting.is_urgent
        form = waiting.request.form
        self.rows += form.rows
        self.nbytes += form.nbytes

    def discard(self, waiting: Waiting) -> None:
        """Removes a request of this group that nobody waits for."""
        self._drop(waiting)
        del waiting.request  # and so its memory, at once
        self._empty += 1
        if self._empty > self._waiting:
            self._queue = deque(each for each in self._queue if each.is_queued)
            self._doubtful = deque(each for each in self._doubtful if each.is_queued)
            self._empty = 0
        self._bring_up()

    def all(self) -> Iterable[Waiting]:
        """Those that wait."""
        return [each for each in (*self._queue, *self._doubtful) if each.is_queued]

    def take(self, limits: BatchLimits, now: float, pace: Pace) -> list[Waiting]:
        """Removes the next batch: as many wanted requests as fit, or a single larger one.

        It is empty where nobody is wanted, or all stand aside who did not before.
        """
        batch: list[Waiting] = []
        rows = nbytes = 0
        self._tell_late(now)
        queue = self._queue or self._doubtful
        while queue:
            waiting = queue[0]
            form = waiting.request.form
            if batch and not limits.hold(rows + form.rows, nbytes + form.nbytes):
                break
            del queue[0]
            if self._empty:
                self._bring_up()
            if not waiting.is_wanted(now):
                self._drop(waiting)
            elif queue is self._queue and pace.is_doubtful(waiting, now):
                insort(self._doubtful, waiting, key=_deadline_of)
            else:
                self._left(waiting)
                batch.append(waiting)
                rows, nbytes = rows + form.rows, nbytes + form.nbytes
        if self:
            self.first_arrival = self.first.arrival
        return batch

    def _tell_late(self, now: float) -> None:
        """Drops those that stand aside and are late by now."""
        while self._doubtful and not self._doubtful[0].is_wanted(now):
            self._drop(self._doubtful.popleft())
            self._bring_up()

    def _bring_up(self) -> None:
        """Drops the places without a request that would be next."""
        for queue in (self._queue, self._doubtful):
            while queue and not queue[0].is_queued:
                del queue[0]
                self._empty -= 1

    def _drop(self, waiting: Waiting) -> None:
        """Takes out a request that is not computed: its client does not stand behind it."""
        self._left(waiting)
        self._turns.take_back(waiting.client, waiting.request.form.nbytes)

    def _left(self, waiting: Waiting) -> None:
        """Takes a request that has left out of the sums."""
        waiting.is_queued = False
        self._waiting -= 1
        form = waiting.request.form
        self._urgent -= waiting.is_urgent
        self.rows -= form.rows
        self.nbytes -= form.nbytes


def _turn_of(waiting: Waiting) -> int:
    return waiting.turn


def _deadline_of(waiting: Waiting) -> float:
    return waiting.deadline or 0.0  # who has none does not stand aside
