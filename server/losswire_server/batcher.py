"""The batcher: requests that can be computed together, are.

In: admitted requests, each with the time its answer is due. Out: their results. What was
cancelled or came too late is dropped before any computing.

Requests with equal `batch_key` wait in one group. A batch leaves when the engine is idle, when it
is full, or when its first request has waited `max_wait_us`: one deadline a batch, set by its first
request and never restarted. An idle engine is never waited for. Everything here runs on the event
loop; only `Engine.compute` runs on threads, `SLOTS` batches at a time.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import structlog

from losswire_server.errors import Expired

if TYPE_CHECKING:
    from losswire_server.engine.protocol import Engine
    from losswire_server.requests import BatchKey, LossRequest, LossResult

SLOTS: Final = 2
"""Batches in flight: while one computes, another can be put together or handed out."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    request: LossRequest
    answer: asyncio.Future[LossResult]
    arrival: float
    deadline: float | None

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


class _Group:
    """Requests of one batch key, in order of arrival, and what they add up to."""

    def __init__(self) -> None:
        self._queue: deque[_Waiting] = deque()
        self.rows = 0
        self.nbytes = 0

    def __bool__(self) -> bool:
        return bool(self._queue)

    @property
    def first_arrival(self) -> float:
        """When the request that has waited longest arrived."""
        return self._queue[0].arrival

    def append(self, waiting: _Waiting) -> None:
        self._queue.append(waiting)
        self.rows += waiting.request.rows
        self.nbytes += waiting.request.nbytes

    def discard(self, waiting: _Waiting) -> None:
        """Removes a request that nobody waits for, if it has not left yet."""
        for index, each in enumerate(self._queue):
            if each is waiting:
                del self._queue[index]
                self.rows -= waiting.request.rows
                self.nbytes -= waiting.request.nbytes
                return

    def take(self, limits: BatchLimits, now: float) -> list[_Waiting]:
        """Removes the next batch: as many wanted requests as fit, or a single larger one."""
        batch: list[_Waiting] = []
        rows = nbytes = 0
        while self._queue:
            request = self._queue[0].request
            if batch and not limits.hold(rows + request.rows, nbytes + request.nbytes):
                break
            waiting = self._queue.popleft()
            self.rows -= request.rows
            self.nbytes -= request.nbytes
            if waiting.is_wanted(now):
                batch.append(waiting)
                rows, nbytes = rows + request.rows, nbytes + request.nbytes
        return batch


class Batcher:
    """Groups requests and hands them to `engine`, within `limits`."""

    def __init__(self, engine: Engine, limits: BatchLimits) -> None:
        self._engine = engine
        self._limits = limits
        self._groups: dict[BatchKey, _Group] = {}
        self._threads = ThreadPoolExecutor(SLOTS, thread_name_prefix="losswire-batch")
        self._in_flight: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._log = structlog.get_logger()

    async def submit(self, request: LossRequest, deadline: float | None = None) -> LossResult:
        """The result of one request; cancelling this takes the request back.

        Args:
            request: validated and admitted.
            deadline: the event loop's time after which the answer is of no use; None for never.

        Raises:
            Expired: the deadline passed while the request waited.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[LossResult] = loop.create_future()
        waiting = _Waiting(request, answer, loop.time(), deadline)
        group = self._groups.setdefault(request.batch_key, _Group())
        group.append(waiting)
        self._dispatch()
        try:
            return await answer
        except asyncio.CancelledError:
            group.discard(waiting)
            if not group and self._groups.get(request.batch_key) is group:
                del self._groups[request.batch_key]
            raise

    async def close(self) -> None:
        """Waits for the batches in flight and ends the threads; no more may be submitted."""
        while self._in_flight:
            await asyncio.wait(self._in_flight)
        if self._timer is not None:
            self._timer.cancel()
        self._threads.shutdown()

    def _dispatch(self) -> None:
        """Starts every batch that should leave now; sets the timer for the next one."""
        now = asyncio.get_running_loop().time()
        while len(self._in_flight) < SLOTS:
            key = self._next_key(now)
            if key is None:
                break
            batch = self._groups[key].take(self._limits, now)
            if not self._groups[key]:
                del self._groups[key]
            if batch:
                task = asyncio.create_task(self._run(batch))
                self._in_flight.add(task)
                task.add_done_callback(self._finished)
        self._set_timer()

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        self._dispatch()

    def _next_key(self, now: float) -> BatchKey | None:
        """The group that has waited longest among those whose batch may leave."""
        ready = (
            (group.first_arrival, key)
            for key, group in self._groups.items()
            if not self._in_flight
            or self._due(group) <= now
            or not self._limits.hold(group.rows, group.nbytes)
        )
        return min(ready, key=lambda pair: pair[0], default=(0.0, None))[1]

    def _due(self, group: _Group) -> float:
        return group.first_arrival + self._limits.wait_us / 1e6

    def _set_timer(self) -> None:
        """Wakes when the next group is due; a batch that ends wakes us anyway."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._groups and len(self._in_flight) < SLOTS:
            due = min(self._due(group) for group in self._groups.values())
            self._timer = asyncio.get_running_loop().call_at(due, self._dispatch)

    async def _run(self, batch: list[_Waiting]) -> None:
        try:
            results = await self._compute([waiting.request for waiting in batch])
        except Exception as error:  # noqa: BLE001 -- the engine's boundary: faults become answers
            if len(batch) == 1:
                _fail(batch[0], error)
                return
            # A fault of one must not become its neighbours': each is computed alone.
            self._log.warning("batch_failed", requests=len(batch), error=type(error).__name__)
            for waiting in batch:
                await self._run([waiting])
            return
        for waiting, result in zip(batch, results, strict=True):
            if not waiting.answer.done():
                waiting.answer.set_result(result)

    async def _compute(self, requests: list[LossRequest]) -> list[LossResult]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._engine.compute, requests)


def _fail(waiting: _Waiting, error: Exception) -> None:
    if not waiting.answer.done():
        waiting.answer.set_exception(error)
