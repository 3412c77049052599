"""The RPCs: where gRPC ends.

In: the bytes of a message and a call. Out: the bytes of a reply, or a status. Each handler is
guarded by the one place where exceptions become statuses; a fault of ours is logged with its
traceback under an incident id, and the caller gets the id alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Hashable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from losswire_proto import connections
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_server import incidents, journal, replies, validation
from losswire_server.errors import InvalidRequest, RequestFailed, Unsupported
from losswire_server.many import ManyRun
from losswire_server.metrics import Metrics, Received
from losswire_server.reading import RequestReader
from losswire_server.streaming import StreamRun
from losswire_server.streams import Stream

if TYPE_CHECKING:
    from losswire_server.admission import Admission
    from losswire_server.batcher import Batcher
    from losswire_server.handover import Handover
    from losswire_server.regions import Regions
    from losswire_server.window import Window

SERVICE: Final = "losswire.v1.LossService"
SERVED: Final = (
    "Compute", "ComputeStream", "ComputeMany", "GetServerInfo", "OpenRegion", "CloseRegion",
)  # fmt: skip
"""What GetServerInfo says of it."""

_LONGEST_MESSAGE: Final = 2000
"""Characters of a status message, which travels in a header of limited size."""

Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"
Unary: TypeAlias = Callable[[bytes, Context], Awaitable[bytes]]
Streaming: TypeAlias = Callable[[AsyncIterator[bytes], Context], AsyncGenerator[bytes]]


@dataclass(frozen=True, slots=True)
class LossService:
    """The service over a batcher.

    Attributes:
        batcher: computes requests.
        admission: says whether there is room for them.
        window: has room for the blocks of streams.
        regions: memory that clients share.
        info: what GetServerInfo answers.
        reader: reads requests.
        metrics: told of each call.
    """

    batcher: Batcher
    admission: Admission
    window: Window
    regions: Regions
    info: pb.GetServerInfoResponse
    handover: Handover | None = None
    reader: RequestReader = field(default_factory=RequestReader)
    metrics: Metrics = field(default_factory=Metrics)

    def handlers(self) -> grpc.GenericRpcHandler:
        """The service's RPCs for a gRPC server; messages arrive and leave as bytes."""
        unary: dict[str, Unary] = {
            "Compute": self._compute,
            "GetServerInfo": self._server_info,
            "OpenRegion": self._open_region,
            "CloseRegion": self._close_region,
        }
        streams: dict[str, Streaming] = {
            "ComputeStream": self._compute_stream,
            "ComputeMany": self._compute_many,
        }
        handlers: dict[str, Any] = {}
        for name, handler in unary.items():
            guarded = self._guarded(name, handler)
            handlers[name] = grpc.unary_unary_rpc_method_handler(guarded)
        for name, streaming in streams.items():
            guarded = self._guarded_stream(name, streaming)
            handlers[name] = grpc.stream_stream_rpc_method_handler(guarded)
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    async def _compute(self, payload: bytes, context: Context) -> bytes:
        account = self.admission.account(client_of(context))
        account.check()
        request = self.reader.read(payload, self.regions)
        _at_end(context, account.take(request.held_bytes))
        result = await self.batcher.submit(
            request, _deadline(context), turn_of(account.key, context)
        )
        return replies.encode_compute(request, result)

    async def _open_region(self, payload: bytes, context: Context) -> bytes:
        message = validation.parse_region(payload, context.peer(), self.regions.limit)
        size, proof = message.size_bytes, message.proof
        if message.WhichOneof("source") == "process_file":
            process, fd = message.process_file.pid, message.process_file.fd
            opened = await self.regions.open(process, fd, size, proof)
        elif self.handover is None:
            raise Unsupported("shared_file: this server has no shared_directory")
        else:
            client, file = self.handover.take(message.shared_file)
            opened = await self.regions.open_handed(client, file, size, proof)
        return pb.OpenRegionResponse(region_id=opened).SerializeToString()

    async def _close_region(self, payload: bytes, _context: Context) -> bytes:
        self.regions.close(validation.parse(pb.CloseRegionRequest, payload).region_id)
        return pb.CloseRegionResponse().SerializeToString()

    async def _compute_stream(
        self, messages: AsyncIterator[bytes], context: Context
    ) -> AsyncGenerator[bytes]:
        account = self.admission.account(client_of(context))
        _at_end(context, account.open_stream())
        try:
            first = await anext(messages)
        except StopAsyncIteration:
            raise InvalidRequest("start: expected first, received nothing") from None
        start = validation.parse_start(first)
        _at_end(context, account.take(start.held_bytes))
        stream = await asyncio.to_thread(Stream, start)
        run = StreamRun(
            stream,
            self.batcher,
            self.window,
            _deadline(context),
            account.key,
            turn_of(account.key, context),
        )
        async with aclosing(run.replies(messages)) as answers:
            async for reply in answers:
                yield reply

    async def _compute_many(
        self, messages: AsyncIterator[bytes], context: Context
    ) -> AsyncGenerator[bytes]:
        deadline, account = _deadline(context), self.admission.account(client_of(context))
        _at_end(context, account.open_stream())
        run = ManyRun(
            self.reader,
            self.batcher,
            self.admission,
            deadline,
            self.regions,
            account,
            self.metrics,
            turn_of(account.key, context),
        )
        async with aclosing(run.replies(messages)) as answers:
            async for reply in answers:
                yield reply

    async def _server_info(self, _payload: bytes, _context: Context) -> bytes:
        return self.info.SerializeToString()

    def _guarded(self, name: str, handler: Unary) -> Any:
        """The handler, counted, with its exceptions turned into statuses."""

        async def guarded(payload: bytes, context: Context) -> bytes:
            journal.begin(context)
            with self.metrics.call(name) as call:
                call.received(payload)
                try:
                    _at_end(context, self.admission.enter())
                    return call.sent(await handler(payload, context))
                except Exception as error:  # noqa: BLE001 -- the service's boundary
                    call.status, failure = _status(error), error
            try:  # once it is counted: whoever hears of it may look
                await _abort(context, failure)
                raise AssertionError("abort does not return")
            finally:
                del failure  # whose traceback holds this frame, and so the message

        return guarded

    def _guarded_stream(self, name: str, handler: Streaming) -> Any:
        """The same for a handler of streams."""

        async def guarded(messages: Any, context: Context) -> AsyncIterator[bytes]:
            journal.begin(context)
            failure: Exception | None = None
            with self.metrics.call(name) as call:
                try:
                    _at_end(context, self.admission.enter())
                    received = Received(aiter(messages), call)
                    # Closed here, not whenever it is found to be left: it holds room until then.
                    async with aclosing(handler(received, context)) as answers:
                        async for reply in answers:
                            yield call.sent(reply)
                except Exception as error:  # noqa: BLE001 -- the service's boundary
                    call.status, failure = _status(error), error
            if failure is not None:
                try:
                    await _abort(context, failure)
                finally:
                    del failure

        return guarded


def client_of(context: Context) -> str:
    """Who calls: one connection, or all that come by one Unix socket."""
    return context.peer()


def turn_of(peer: Hashable, context: Context) -> Hashable:
    """Whose turn a request takes: the connection's; at a Unix socket, that of whom it says it is.

    No limit goes by that: a name is anyone's choice. Whoever has a new one for each request gains
    no more by it than by a new connection to a port; and nothing at all where connections have
    names of their own.
    """
    if not str(peer).startswith("unix:"):
        return peer
    names = [
        value
        for key, value in context.invocation_metadata() or ()
        if key == connections.CLIENT_HEADER and len(value) <= connections.LONGEST_CLIENT
    ]
    return (peer, names[0]) if names else peer


def _deadline(context: Context) -> float | None:
    """When the answer is of no use, in the event loop's time; None for never."""
    remaining = context.time_remaining()
    return None if remaining is None else asyncio.get_running_loop().time() + remaining


def _at_end(context: Context, action: Callable[[], None]) -> None:
    """Acts when the call is over.

    That is later than the handler's return: until the client has taken the reply, its bytes are
    here, and a server that stops would cut it off.
    """
    done: Any = lambda _context: action()  # noqa: E731 -- typed wrongly in gRPC's stubs
    context.add_done_callback(done)


def _status(error: Exception) -> grpc.StatusCode:
    """How a call ends that failed so."""
    return error.status if isinstance(error, RequestFailed) else grpc.StatusCode.INTERNAL


async def _abort(context: Context, error: Exception) -> None:
    """Ends the call with the error's status; with a retry delay where it has one."""
    if not isinstance(error, RequestFailed):
        await context.abort(grpc.StatusCode.INTERNAL, incidents.report(error))
    metadata: list[tuple[str, str | bytes]] = []
    if error.retry_delay_ms is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(error.retry_delay_ms)
        detail = any_pb2.Any()
        detail.Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        status = status_pb2.Status(
            code=error.status.value[0], message=str(error)[:_LONGEST_MESSAGE], details=[detail]
        )
        metadata.extend(rpc_status.to_status(status).trailing_metadata)
        metadata.append(("grpc-retry-pushback-ms", str(error.retry_delay_ms)))
    await context.abort(error.status, str(error)[:_LONGEST_MESSAGE], tuple(metadata))
