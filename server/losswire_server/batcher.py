"""The batcher: requests that can be computed together, are.

In: admitted requests, each with its client and the time its answer is due. Out: their results. What
was cancelled or came too late is dropped before any computing. Clients that wait take turns by
bytes (`turns`), both for which batch leaves next and for who has a place in it. What would hardly
be in time, by what its like took before (`pace`), stands aside for what will.

Requests with equal `batch_key` wait in one group. A batch leaves when the engine is idle, when it
is full, when it is so large that company gains nothing, when one of its requests is due so soon
that it would be late, or when its first request has waited `max_wait_us`: one deadline a batch, set
by its first request and never restarted. An idle engine is never waited for. What is so small that
handing it to a thread would take longer than computing it is computed at once, together with all
that has arrived; it waits only where `company` says that others are about to come. So is what is
somewhat larger and alone. Everything here runs on the event loop; only `Engine.compute` of the
larger batches runs on threads, `SLOTS` of them at a time.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from losswire_server.company import Company
from losswire_server.computing import Computing, crashed
from losswire_server.groups import Group, Waiting
from losswire_server.pace import Pace
from losswire_server.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from losswire_server.engine.protocol import Engine
    from losswire_server.groups import Answer, BatchLimits
    from losswire_server.metrics import Metrics
    from losswire_server.requests import BatchKey, LossRequest, LossResult

SLOTS: Final = 2
"""Batches in flight: while one computes, another can be put together or handed out."""

ENOUGH_BYTES: Final = 256 << 10
"""Of tensors and results beyond which a group gains nothing from more company."""

ALONE: Final = 8
"""Times the engine's quick bytes up to which a request with no other beside it is computed at once,
too. The way to a thread and back takes it 0.2 ms: with that, 64 x 1000 takes 1.7 ms instead of 1.5,
and two callers make 700 calls a second instead of 1,100, eight 890 instead of 1,000 (2 cores)."""

ALONE_ELEMENTS: Final = 128 << 10
"""Of such a request, a row counted as sixteen more: the event loop stands still for as long."""

URGENT_WAITS: Final = 2
"""Times the longest wait: what is due sooner is not held, so that some time is left to compute."""


class Batcher:
    """Groups requests and hands them to `engine`, within `limits`.

    Args:
        engine: what computes.
        limits: of a batch.
        on_crash: told why, once, where batches cannot go on; whoever waits is then told, too.
        metrics: told of each batch.
    """

    def __init__(
        self,
        engine: Engine,
        limits: BatchLimits,
        on_crash: Callable[[str], object] | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._on_crash = on_crash
        self._crash: BaseException | None = None
        self._engine = engine
        self._limits = limits
        self._wait_seconds = limits.wait_us / 1e6
        self._urgent_seconds = self._wait_seconds * URGENT_WAITS
        self._groups: dict[BatchKey, Group] = {}
        self._pace = Pace()
        self._computing = Computing(engine, SLOTS, self._end, self._pace, metrics)
        self._in_flight: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._is_dispatch_due = False
        self._company = Company()
        self._turns = Turns()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._log = structlog.get_logger()

    async def submit(
        self, request: LossRequest, deadline: float | None = None, client: Hashable = None
    ) -> LossResult:
        """The result of one request; cancelling this takes the request back.

        Args:
            request: validated and admitted.
            deadline: the event loop's time after which the answer is of no use; None for never.
            client: whose it is; clients take turns.

        Raises:
            Expired: the deadline passed while the request waited.
        """
        answer: asyncio.Future[LossResult] = asyncio.get_running_loop().create_future()
        waiting = self.enqueue(request, deadline, answer, client)
        try:
            return await answer
        except asyncio.CancelledError:
            self.take_back(waiting)
            raise

    def enqueue(
        self, request: LossRequest, deadline: float | None, answer: Answer, client: Hashable = None
    ) -> Waiting:
        """The same for callers that do not wait: the outcome goes to `answer`."""
        if self._crash is not None:
            answer.set_exception(crashed(self._crash))
            return Waiting(request, answer, 0.0, deadline)
        loop = self._loop
        if loop is None:  # asked for once: it costs a system call
            loop = self._loop = asyncio.get_running_loop()
        turn = self._turns.give(client, request.form.nbytes)
        now = loop.time()
        is_urgent = deadline is not None and deadline < now + self._urgent_seconds
        waiting = Waiting(request, answer, now, deadline, client, turn, is_urgent)
        key = request.batch_key
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = Group(self._turns)
        group.add(waiting)
        if not self._is_dispatch_due:
            # Not now: what else has arrived is handed in first, and shares the batch.
            self._is_dispatch_due = True
            loop.call_soon(self._dispatch)
        return waiting

    def take_back(self, waiting: Waiting) -> None:
        """Drops a request whose answer is not wanted any more, if it has not left yet."""
        if not waiting.is_queued:
            return
        key = waiting.request.batch_key
        group = self._groups.get(key)
        if group is not None:
            group.discard(waiting)
            if not group:
                del self._groups[key]

    async def close(self) -> None:
        """Waits for the batches in flight and ends the threads; no more may be submitted."""
        while self._in_flight:
            await asyncio.wait(self._in_flight)
        if self._timer is not None:
            self._timer.cancel()
        self._computing.close()

    def _dispatch(self) -> None:
        """Starts what should leave now; nobody else would notice if that failed."""
        try:
            self._start_batches()
        except Exception as error:  # noqa: BLE001 -- a fault of ours, and nobody would be answered
            self._end(error, [])

    def _end(self, error: BaseException, batch: list[Waiting]) -> None:
        """Answers all that wait, and this batch: batches cannot go on."""
        why = f"{type(error).__name__}: {error}"
        self._log.error("batches_crashed", error=why, exc_info=error)
        if self._crash is None and self._on_crash is not None:
            self._on_crash(why)
        self._crash = error
        left = [waiting for group in self._groups.values() for waiting in group.all()]
        self._groups.clear()
        for waiting in batch + left:
            if not waiting.answer.done():
                waiting.answer.set_exception(crashed(error))

    def _start_batches(self) -> None:
        """Starts every batch that should leave now; sets the timer for the next one."""
        self._is_dispatch_due = False
        now = asyncio.get_running_loop().time()
        self._dispatch_quick(now)
        while len(self._in_flight) < SLOTS:
            key = self._next_key(now)
            if key is None:
                break
            batch = self._take(key, now)
            if batch:
                task = asyncio.create_task(self._computing.on_a_thread(batch))
                self._in_flight.add(task)
                task.add_done_callback(self._finished)
        self._set_timer()

    def _dispatch_quick(self, now: float) -> None:
        """Computes what takes no longer than handing it to a thread, here and now."""
        if self._is_alone():
            self._computing.here(self._take(next(iter(self._groups)), now))
            return
        quick = self._quick_groups()
        waiting = sum(len(group) for group in quick.values())
        is_due = any(self._due(group) <= now for group in quick.values())
        if not waiting or not (is_due or self._company.is_there(waiting)):
            return
        self._company.note(waiting)
        for key in quick:
            while key in self._groups:
                self._computing.here(self._take(key, now))

    def _is_alone(self) -> bool:
        """Whether there is one request that others would not have to wait for long."""
        if self._in_flight or len(self._groups) != 1:
            return False
        (group,) = self._groups.values()
        quick = self._engine.quick_bytes
        if len(group) != 1 or not quick < group.nbytes <= ALONE * quick:
            return False
        form = group.first.request.form
        return form.rows * (form.classes + 16) <= ALONE_ELEMENTS

    def _quick_groups(self) -> dict[BatchKey, Group]:
        """The groups that are small enough, also all together."""
        left = self._engine.quick_bytes
        quick: dict[BatchKey, Group] = {}
        for key, group in self._groups.items():
            if group.nbytes <= left:
                left -= group.nbytes
                quick[key] = group
        return quick

    def _take(self, key: BatchKey, now: float) -> list[Waiting]:
        """The next batch of a group; a group that is empty then goes."""
        group = self._groups[key]
        turn, nbytes = group.turn, group.nbytes
        batch = group.take(self._limits, now, self._pace)
        self._turns.reach(turn, nbytes - group.nbytes)
        if not group:
            del self._groups[key]
            if not self._groups:
                self._turns.clear()
        return batch

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        self._dispatch()

    def _next_key(self, now: float) -> BatchKey | None:
        """The group whose turn is next among those whose batch may leave for a thread."""
        quick = self._quick_groups()
        if len(quick) == len(self._groups):
            return None
        ready = (
            (group.is_doubtful, group.turn, group.first_arrival, key)
            for key, group in self._groups.items()
            if key not in quick
            and (
                not self._in_flight
                or group.nbytes >= ENOUGH_BYTES
                or self._due(group) <= now
                or not self._limits.hold(group.rows, group.nbytes)
            )
        )
        return min(ready, key=lambda each: each[:3], default=(False, 0, 0.0, None))[3]

    def _due(self, group: Group) -> float:
        """When a group has waited for company as long as it may."""
        return group.first_arrival + (0.0 if group.is_urgent else self._wait_seconds)

    def _set_timer(self) -> None:
        """Wakes when the next group is due; a batch that ends wakes us anyway."""
        waiting = self._groups if len(self._in_flight) < SLOTS else self._quick_groups()
        due = min((self._due(group) for group in waiting.values()), default=None)
        if self._timer is not None:
            if self._timer.when() == due:
                return
            self._timer.cancel()
            self._timer = None
        if due is not None:
            self._timer = asyncio.get_running_loop().call_at(due, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        self._dispatch()
