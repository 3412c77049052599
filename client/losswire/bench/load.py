"""The load: callers that each send one problem again and again, as soon as the last reply is there.

In: a `Load`. Out: `Samples`, when each call started and how long it took, and what went wrong by
kind. Replies are checked outside of what is timed. Callers are threads that share synchronous
clients, or tasks of one event loop that share asynchronous ones.
"""

from __future__ import annotations

import asyncio
import threading
import time
from array import array
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar

from losswire._async_client import AsyncClient
from losswire._client import Client
from losswire._errors import LosswireError, ServerBusy
from losswire.bench.problem import WrongResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from losswire.bench.problem import Problem

ClientKind: TypeAlias = Literal["sync", "async"]
ThingT = TypeVar("ThingT")
Watch: TypeAlias = "Callable[[Budget], None]"

_CHECK_EVERY: Final = 16
"""Of a caller's replies, one in this many is checked, the first among them."""

_PAUSE_SECONDS: Final = 0.01
"""After a failed call, so that a server that is gone is not asked in a tight loop."""

_WATCH_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Load:
    """What to send, where, and how much of it.

    Attributes:
        problems: the calls, equal in shape; each caller makes one of them.
        connection: keywords of the clients: target, transport, timeout, token, tls, retries.
        client: which kind of client.
        concurrency: callers, each with one call in flight.
        connections: clients that the callers share.
        requests: calls to make; None for no such end.
        duration: seconds after which no call is started; None for no such end.
        warm_up: calls of each caller before the measuring starts.
    """

    problems: Sequence[Problem]
    connection: Mapping[str, Any]
    client: ClientKind = "sync"
    concurrency: int = 1
    connections: int = 1
    requests: int | None = None
    duration: float | None = None
    warm_up: int = 3


class Budget:
    """How many calls may still be started, and until when; safe to use from several threads."""

    def __init__(self, requests: int | None, duration: float | None) -> None:
        self.requests = requests
        self.duration = duration
        self.taken = 0
        self._start = time.perf_counter()
        self._is_over = False
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Whether one more call may be started."""
        with self._lock:
            if self._is_over or (self.requests is not None and self.taken >= self.requests):
                return False
            if self.duration is not None and self.seconds >= self.duration:
                return False
            self.taken += 1
            return True

    def end(self) -> None:
        """No call is started from now on."""
        self._is_over = True

    @property
    def seconds(self) -> float:
        """Time gone by."""
        return time.perf_counter() - self._start

    @property
    def spent(self) -> float:
        """The part used up, from 0 to 1: of calls or of time, whichever is further."""
        by_calls = 0.0 if self.requests is None else self.taken / self.requests
        by_time = 0.0 if self.duration is None else self.seconds / self.duration
        return min(1.0, max(by_calls, by_time))


@dataclass(slots=True)
class Samples:
    """What came of the calls, in seconds.

    Attributes:
        starts: when each good call started, on the clock of `time.perf_counter`.
        latencies: how long each took.
        checked: replies that were held to the right answer.
        errors: failed calls, and wrong replies, by the error's name.
        messages: the first message of each kind of error.
    """

    starts: array[float] = field(default_factory=lambda: array("d"))
    latencies: array[float] = field(default_factory=lambda: array("d"))
    checked: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    messages: dict[str, str] = field(default_factory=dict)

    def took(self, start: float, problem: Problem, result: Any) -> None:
        """A call that has just returned."""
        self.latencies.append(time.perf_counter() - start)
        self.starts.append(start)
        if len(self.latencies) % _CHECK_EVERY == 1:
            self.checked += 1
            try:
                problem.check(result)
            except WrongResult as error:
                self.failed(error)

    def failed(self, error: Exception) -> float:
        """A call that raised; returns how long to wait before the next one."""
        kind = type(error).__name__
        self.errors[kind] += 1
        self.messages.setdefault(kind, str(error))
        if isinstance(error, ServerBusy) and error.retry_delay is not None:
            return error.retry_delay
        return _PAUSE_SECONDS

    @classmethod
    def merged(cls, parts: Iterable[Samples]) -> Samples:
        """The samples of all callers, in the order in which the calls started."""
        whole = cls()
        pairs: list[tuple[float, float]] = []
        for part in parts:
            pairs.extend(zip(part.starts, part.latencies, strict=True))
            whole.checked += part.checked
            whole.errors.update(part.errors)
            whole.messages = part.messages | whole.messages
        pairs.sort()
        whole.starts.extend(start for start, _ in pairs)
        whole.latencies.extend(latency for _, latency in pairs)
        return whole


def run(load: Load, watch: Watch) -> Samples:
    """Warms up, then measures.

    Args:
        load: what to do.
        watch: called about ten times a second with how far the measuring is.
    """
    if load.client == "async":
        return asyncio.run(_run_tasks(load, watch))
    return _run_threads(load, watch)


def _run_threads(load: Load, watch: Watch) -> Samples:
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(**load.connection)) for _ in range(load.connections)]
        pool = stack.enter_context(ThreadPoolExecutor(load.concurrency))

        def callers(budget: Budget, watch: Watch) -> list[Samples]:
            calls = [
                pool.submit(_call, _turned(clients, index), _turned(load.problems, index), budget)
                for index in range(load.concurrency)
            ]
            pending = set(calls)
            try:
                while pending:
                    pending = wait(pending, _WATCH_SECONDS).not_done
                    watch(budget)
            finally:
                budget.end()
            return [call.result() for call in calls]

        if load.warm_up:
            callers(Budget(load.warm_up * load.concurrency, None), _unseen)
        return Samples.merged(callers(Budget(load.requests, load.duration), watch))


def _call(client: Client, problem: Problem, budget: Budget) -> Samples:
    samples = Samples()
    while budget.take():
        start = time.perf_counter()
        try:
            result = problem.call(client)
        except LosswireError as error:
            time.sleep(samples.failed(error))
        else:
            samples.took(start, problem, result)
    return samples


async def _run_tasks(load: Load, watch: Watch) -> Samples:
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(AsyncClient(**load.connection))
            for _ in range(load.connections)
        ]

        async def callers(budget: Budget, watch: Watch) -> list[Samples]:
            calls = [
                asyncio.create_task(
                    _call_async(_turned(clients, index), _turned(load.problems, index), budget)
                )
                for index in range(load.concurrency)
            ]
            pending = set(calls)
            while pending:
                _, pending = await asyncio.wait(pending, timeout=_WATCH_SECONDS)
                watch(budget)
            return [call.result() for call in calls]

        if load.warm_up:
            await callers(Budget(load.warm_up * load.concurrency, None), _unseen)
        return Samples.merged(await callers(Budget(load.requests, load.duration), watch))


async def _call_async(client: AsyncClient, problem: Problem, budget: Budget) -> Samples:
    samples = Samples()
    while budget.take():
        start = time.perf_counter()
        try:
            result = await problem.call(client)
        except LosswireError as error:
            await asyncio.sleep(samples.failed(error))
        else:
            samples.took(start, problem, result)
    return samples


def _turned(things: Sequence[ThingT], index: int) -> ThingT:
    """One of some things that callers share, dealt out in turn."""
    return things[index % len(things)]


def _unseen(_budget: Budget) -> None:
    """Nobody watches the warm-up."""
