"""What the server counts and times, as Prometheus reads it.

In: calls that have ended, batches that were computed, and ways to look at what is held now. Out: a
registry; and at level debug a line for each call. Counting is done once for each call, message or
batch, never for each small request of a ComputeMany stream by itself, so that it costs nothing
beside them.
"""

from __future__ import annotations

import time
from collections import Counter as Tally
from typing import TYPE_CHECKING, Any, Final, Self

import grpc
import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

SECONDS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10,
)  # fmt: skip
"""Bounds of durations: from a small batch to a tensor of gigabytes."""

_REQUESTS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_ROWS: Final = tuple(4**power for power in range(11))


class _Method:
    """The instruments of one method, looked up once."""

    def __init__(
        self, requests: Counter, seconds: Histogram, received: Counter, sent: Counter, name: str
    ) -> None:
        self.name, self._requests = name, requests
        self.seconds, self.received = seconds.labels(name), received.labels(name)
        self.sent = sent.labels(name)
        self._by_status: dict[grpc.StatusCode, Counter] = {}

    def requests(self, status: grpc.StatusCode) -> Counter:
        """Those that have ended so."""
        found = self._by_status.get(status)
        if found is None:
            found = self._by_status[status] = self._requests.labels(self.name, status.name)
        return found


class Call:
    """One call, from its arrival to its end.

    Attributes:
        status: how it ends; CANCELLED where nobody waits for the end.
    """

    def __init__(self, method: _Method, log: Any) -> None:
        self._method, self._log = method, log
        self._received, self._sent = method.received, method.sent
        self.status = grpc.StatusCode.OK

    def received(self, message: bytes) -> bytes:
        """Counts a message that has come."""
        self._received.inc(len(message))
        return message

    def sent(self, message: bytes) -> bytes:
        """Counts a message that goes."""
        self._sent.inc(len(message))
        return message

    def __enter__(self) -> Self:
        self._start = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not issubclass(kind, Exception):
            self.status = grpc.StatusCode.CANCELLED
        seconds = time.perf_counter() - self._start
        self._method.requests(self.status).inc()
        self._method.seconds.observe(seconds)
        name, status = self._method.name, self.status.name
        self._log.debug("call", method=name, status=status, seconds=round(seconds, 6))


class Received:
    """The messages of a call, counted as they are taken."""

    def __init__(self, messages: AsyncIterator[bytes], call: Call) -> None:
        self._messages, self._call = messages, call

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        return self._call.received(await anext(self._messages))


class Metrics:
    """The server's instruments, in a registry of its own. For the event loop; read from anywhere.

    Attributes:
        registry: what an exporter reads.
    """

    def __init__(self) -> None:
        self._log = structlog.get_logger().bind()  # once, not with each line
        self._methods: dict[str, _Method] = {}
        self.registry = registry = CollectorRegistry()
        PlatformCollector(registry)
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "losswire_requests", "Requests that have ended", ["method", "status"], registry=registry
        )
        self._seconds = Histogram(
            "losswire_call_seconds", "From a call's arrival to its end", ["method"],
            registry=registry, buckets=SECONDS,
        )  # fmt: skip
        self._received = Counter(
            "losswire_received_bytes", "Bytes of messages received", ["method"], registry=registry
        )
        self._sent = Counter(
            "losswire_sent_bytes", "Bytes of messages sent", ["method"], registry=registry
        )
        self._rows = Counter("losswire_rows", "Rows computed", registry=registry)
        self._nbytes = Counter(
            "losswire_computed_bytes", "Bytes of tensors read and written", registry=registry
        )
        self._batch_requests = Histogram(
            "losswire_batch_requests", "Requests of a batch", registry=registry, buckets=_REQUESTS
        )
        self._batch_rows = Histogram(
            "losswire_batch_rows", "Rows of a batch", registry=registry, buckets=_ROWS
        )
        self._wait = Histogram(
            "losswire_queue_wait_seconds", "What the first request of a batch waited for it",
            registry=registry, buckets=SECONDS,
        )  # fmt: skip
        self._engine = Histogram(
            "losswire_engine_seconds", "What the engine took for a batch",
            registry=registry, buckets=SECONDS,
        )  # fmt: skip

    def describe(self, **labels: str) -> None:
        """Says what runs: version, engine and device."""
        Gauge(
            "losswire_server", "What runs, in its labels", list(labels), registry=self.registry
        ).labels(**labels).set(1)

    def watch(self, name: str, what: str, look: Callable[[], float]) -> None:
        """Has `look` called for the value of `losswire_<name>` whenever somebody asks."""
        Gauge(f"losswire_{name}", what, registry=self.registry).set_function(look)

    def call(self, method: str) -> Call:
        """Times a call, as a context manager around all of it."""
        found = self._methods.get(method)
        if found is None:
            kinds = self._requests, self._seconds, self._received, self._sent
            found = self._methods[method] = _Method(*kinds, method)
        return Call(found, self._log)

    def answered(self, method: str, statuses: Iterable[grpc.StatusCode]) -> None:
        """Requests of a call that goes on have been answered."""
        for status, count in Tally(statuses).items():
            self._requests.labels(f"{method}/request", status.name).inc(count)

    def computed(
        self, requests: int, rows: int, nbytes: int, waited: float, seconds: float
    ) -> None:
        """A batch has been computed.

        Args:
            requests: in it.
            rows: of all of them.
            nbytes: of their tensors and results.
            waited: seconds of the first of them until the batch left.
            seconds: that the engine took.
        """
        self._rows.inc(rows)
        self._nbytes.inc(nbytes)
        self._batch_requests.observe(requests)
        self._batch_rows.observe(rows)
        self._wait.observe(waited)
        self._engine.observe(seconds)
