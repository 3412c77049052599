"""One ComputeMany call: many requests, several per message, answered as they are done.

In: a call's messages. Out: its replies, each with all the answers that were ready when it was
written. A request that fails is answered with its own error; the call itself ends when the client
has sent all it wanted and has its answers, or when the server is about to stop: then what has been
read is answered first.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import grpc

from losswire_proto import codec, many
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_server import incidents, replies, validation
from losswire_server.errors import Draining, InvalidRequest, RequestFailed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Hashable

    from losswire_server.admission import Account, Admission
    from losswire_server.batcher import Batcher
    from losswire_server.groups import Waiting
    from losswire_server.metrics import Metrics
    from losswire_server.reading import RequestReader
    from losswire_server.regions import Regions
    from losswire_server.requests import LossResult

HELD_REQUESTS: Final = 1024
"""Requests of one call that were read and are not answered yet; beyond it nothing more is read."""

HELD_BYTES: Final = 16 << 20
"""Bytes of their tensors and results, likewise."""

AT_ONCE: Final = 256
"""Requests of one message that are taken while nobody else has a turn."""

REPLY_BYTES: Final = 256 << 10
"""Of answers in one message, unless a single one is larger."""


class _Pending:
    """One request that was read: where its outcome goes, and what is given back in the end."""

    __slots__ = ("_run", "give_back", "id", "is_over", "nbytes", "outcome", "waiting")

    def __init__(self, run: ManyRun, identifier: int) -> None:
        self._run = run
        self.id = identifier
        self.is_over = False
        self.nbytes = 0
        self.give_back: Callable[[], None] | None = None
        self.waiting: Waiting | None = None
        self.outcome: LossResult | Exception | None = None

    def done(self) -> bool:
        """Whether no outcome is wanted any more."""
        return self.is_over

    def set_result(self, result: LossResult) -> None:
        """Takes the result."""
        self._finish(result)

    def set_exception(self, error: Exception) -> None:
        """Takes what went wrong."""
        self._finish(error)

    def _finish(self, outcome: LossResult | Exception) -> None:
        self.is_over, self.outcome = True, outcome
        self._run.finished(self)

    @property
    def status(self) -> grpc.StatusCode:
        """How it has ended."""
        if isinstance(self.outcome, RequestFailed):
            return self.outcome.status
        failed = isinstance(self.outcome, Exception)
        return grpc.StatusCode.INTERNAL if failed else grpc.StatusCode.OK

    def encode(self) -> bytes:
        """The answer, as an element of a `ComputeManyResponse`."""
        if isinstance(self.outcome, Exception):
            return many.failure(self.id, _request_error(self.outcome).SerializeToString())
        assert self.outcome is not None  # noqa: S101 -- for the type checker; it is over
        assert self.waiting is not None  # noqa: S101 -- the same
        return many.response(self.id, replies.encode_compute(self.waiting.request, self.outcome))


class ManyRun:
    """Reads requests and writes answers of one call at the same time.

    Args:
        reader: reads the requests.
        batcher: computes them.
        admission: says whether there is room for each.
        deadline: of the call, in the event loop's time; None for none.
        regions: memory that clients share; None for none.
        account: of the client; None for nobody's.
        metrics: told of each answer.
        turn: whose turn the requests take; None for the account's.
    """

    def __init__(
        self,
        reader: RequestReader,
        batcher: Batcher,
        admission: Admission,
        deadline: float | None,
        regions: Regions | None = None,
        account: Account | None = None,
        metrics: Metrics | None = None,
        turn: Hashable = None,
    ) -> None:
        self._metrics = metrics
        self._account = admission.account() if account is None else account
        self._turn = self._account.key if turn is None else turn
        self._regions = regions
        self._reader = reader
        self._batcher = batcher
        self._admission = admission
        self._deadline = deadline
        self._loop = asyncio.get_running_loop()
        self._in_flight: dict[int, _Pending] = {}
        self._finished: list[_Pending] = []
        self._held_requests = self._held_bytes = 0
        self._is_all_read = False
        self._wake_writer, self._wake_reader = asyncio.Event(), asyncio.Event()

    async def replies(self, messages: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
        """The replies to `messages`.

        Raises:
            InvalidRequest: what is no such message, or an id that is in use.
            Draining: the server has stopped reading.
        """
        reading = asyncio.create_task(self._read(messages))
        # Not at the end of `_read`, which never begins where it is cancelled at once.
        reading.add_done_callback(self._all_read)
        forget = self._admission.on_drain(reading.cancel)
        try:
            while self._finished or self._in_flight or not self._is_all_read:
                await self._wake_writer.wait()
                self._wake_writer.clear()
                while self._finished:
                    written, reply = self._next_reply()
                    try:
                        yield reply
                    finally:
                        self._let_go(written)
            await asyncio.wait([reading])
            if reading.cancelled():
                raise Draining("the server is draining and takes no new calls; use another one")
            reading.result()
        finally:
            forget()
            reading.cancel()
            try:
                await asyncio.gather(reading, return_exceptions=True)
            finally:  # also where the call is cancelled once more
                self._let_go(self._finished)
                for pending in list(self._in_flight.values()):
                    self._take_back(pending)

    def finished(self, pending: _Pending) -> None:
        """Takes a request whose outcome is there."""
        self._in_flight.pop(pending.id, None)
        self._finished.append(pending)
        self._wake_writer.set()

    async def _read(self, messages: AsyncIterator[bytes]) -> None:
        """Hands the requests to the batcher as they arrive, as far as there is room."""
        async for payload in messages:
            await self._take(payload)
            await self._room()

    async def _room(self) -> None:
        """Waits until more may be read."""
        while self._held_requests >= HELD_REQUESTS or self._held_bytes >= HELD_BYTES:
            self._wake_reader.clear()
            await self._wake_reader.wait()

    def _all_read(self, _reading: asyncio.Task[None]) -> None:
        """Lets the writer end once all is answered."""
        self._is_all_read = True
        self._wake_writer.set()

    async def _take(self, payload: bytes) -> None:
        """Takes one message: its new requests, and those that are not wanted any more.

        Others have their turn in between, and this one waits for room, as if what it brings had
        come in several.
        """
        with validation.decoding(pb.ComputeManyRequest, payload):
            message = codec.parse_many(payload)
        if not message.requests and not message.cancelled_ids:
            raise InvalidRequest("requests: expected at least one, received none")
        now = self._loop.time()
        for number, request in enumerate(message.requests, 1):
            if number % AT_ONCE == 0:
                await asyncio.sleep(0)
                await self._room()
            identifier = request.id
            if identifier in self._in_flight:
                raise InvalidRequest(f"id: expected one that is not in use, received {identifier}")
            pending = self._in_flight[identifier] = _Pending(self, identifier)
            self._held_requests += 1
            try:
                self._submit(pending, request, now)
            except Exception as error:  # noqa: BLE001 -- one request's boundary
                pending.set_exception(error)
        for identifier in message.cancelled_ids:
            if identifier in self._in_flight:
                self._take_back(self._in_flight[identifier])

    def _submit(self, pending: _Pending, message: pb.ManyRequest, now: float) -> None:
        """Validates, admits and hands on one request.

        Raises:
            RequestFailed: it breaks a rule, or there is no room for it.
        """
        if not message.HasField("request"):
            raise InvalidRequest("request: expected to be set, received nothing")
        deadline = self._deadline
        if message.HasField("timeout_ms"):
            if not message.timeout_ms:
                raise InvalidRequest("timeout_ms: expected a number > 0, received 0")
            own = now + message.timeout_ms / 1000
            deadline = own if deadline is None else min(own, deadline)
        self._account.check()
        request = self._reader.read(message.request.SerializeToString(), self._regions)
        pending.give_back = self._account.take(request.held_bytes)
        pending.nbytes = request.held_bytes
        self._held_bytes += pending.nbytes
        pending.waiting = self._batcher.enqueue(request, deadline, pending, self._turn)

    def _next_reply(self) -> tuple[list[_Pending], bytes]:
        """As many answers as one message takes, and the message."""
        parts: list[bytes] = []
        nbytes = 0
        for pending in self._finished:
            if nbytes >= REPLY_BYTES:
                break
            parts.append(pending.encode())
            nbytes += len(parts[-1])
        written, self._finished = self._finished[: len(parts)], self._finished[len(parts) :]
        if self._metrics is not None:
            self._metrics.answered("ComputeMany", [pending.status for pending in written])
        return written, b"".join(parts)

    def _take_back(self, pending: _Pending) -> None:
        """Drops a request that nobody wants answered."""
        pending.is_over = True
        del self._in_flight[pending.id]
        if pending.waiting is not None:
            self._batcher.take_back(pending.waiting)
        self._let_go([pending])

    def _let_go(self, ended: list[_Pending]) -> None:
        """Gives back what requests held that are answered or dropped."""
        for pending in ended:
            self._held_requests -= 1
            self._held_bytes -= pending.nbytes
            if pending.give_back is not None:
                pending.give_back()
        self._wake_reader.set()
        self._wake_writer.set()


def _request_error(error: Exception) -> pb.RequestError:
    if isinstance(error, RequestFailed):
        code, delay = error.status.value[0], error.retry_delay_ms
        return pb.RequestError(code=code, message=str(error), retry_delay_ms=delay)
    message = incidents.report(error)
    return pb.RequestError(code=grpc.StatusCode.INTERNAL.value[0], message=message)
