"""The service in process: real handlers, without gRPC between them and the client.

In: a script's conditions, then calls. Out: what a client would have got. When the house is left,
all that calls had taken has to be there again.
"""

import asyncio
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from types import SimpleNamespace
from unittest import mock

import grpc

from fuzz.clockwork import COMPUTING_SECONDS, Later
from fuzz.scripts import Condition, Kind
from losswire_proto import codec
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_server import many
from losswire_server.admission import Admission, Room
from losswire_server.batcher import Batcher
from losswire_server.engine.numpy_engine import NumpyEngine
from losswire_server.groups import BatchLimits
from losswire_server.regions import Regions
from losswire_server.service import SERVICE, LossService
from losswire_server.window import Window

FEW = 8
"""Bytes that are cut out of messages where SMALL_CUTS is on."""

ROOM, LITTLE_ROOM = 1 << 20, 4 << 10
REGION_BYTES = 64 << 10
SHORT_SECONDS = 0.01
_SETTLING_TURNS = 200
_SETTLING_SECONDS = 2 * COMPUTING_SECONDS


def cut_small(condition):
    """Where SMALL_CUTS is on, has tensors of few bytes treated as large ones; for `with`."""
    if Condition.SMALL_CUTS in condition:
        return mock.patch.object(codec, "SMALLEST_CUT", FEW)
    return nullcontext()


class Engine:
    """NumPy's engine on one thread."""

    name = device = "fuzzed"
    registrar = None

    def __init__(self):
        self._engine = NumpyEngine(threads=1)
        self.quick_bytes = self._engine.quick_bytes

    def compute(self, requests):
        return self._engine.compute(requests)


@dataclass
class Answer:
    """What a client got: replies, and how the call ended.

    Attributes:
        code: None for OK.
        is_cancelled: by the client; then there is no status.
    """

    replies: list = field(default_factory=list)
    code: grpc.StatusCode | None = None
    details: str = ""
    is_cancelled: bool = False


class _Aborted(Exception):  # noqa: N818 -- an outcome
    """What gRPC raises out of `abort`."""


class _Call:
    """A call as gRPC shows it to a handler."""

    def __init__(self, seconds):
        self.answer = Answer()
        self._seconds = seconds
        self._at_end = []
        self._is_over = False

    def peer(self):
        return "unix:"

    def invocation_metadata(self):
        return ()

    def time_remaining(self):
        return self._seconds

    def add_done_callback(self, action):
        assert not self._is_over, "a call that is over gets another callback"
        self._at_end.append(action)

    async def abort(self, code, details="", trailing_metadata=()):
        assert self.answer.code is None, "a call is ended twice"
        assert isinstance(trailing_metadata, tuple)
        self.answer.code, self.answer.details = code, details
        raise _Aborted

    def reply(self, payload):
        assert self.answer.code is None, "a reply after the end"
        assert isinstance(payload, bytes)
        self.answer.replies.append(payload)

    def end(self):
        self._is_over = True
        for action in self._at_end:
            action(self)


class House:
    """A server's collaborators, put together as `runtime` does, for one script.

    Args:
        script: whose conditions hold here.
        engine: what computes; it may be used again.
    """

    def __init__(self, script, engine):
        self._condition = script.condition
        is_small = Condition.LITTLE_ROOM in script.condition
        self._room = LITTLE_ROOM if is_small else ROOM
        self.admission = Admission(Room(self._room, 6 if is_small else 1 << 16))
        self.window = Window(self._room)
        self.regions = Regions(REGION_BYTES)
        self.engine = engine
        engine.quick_bytes = 0 if Condition.THREADS in script.condition else 128 << 10
        with mock.patch("losswire_server.computing.ThreadPoolExecutor", Later):
            self._batcher = Batcher(engine, BatchLimits(64, 1 << 20, 1000))
        self.handover = None
        self._patches = ExitStack()

    async def __aenter__(self):
        self._patches.enter_context(cut_small(self._condition))
        if Condition.LITTLE_ROOM in self._condition:
            self._patches.enter_context(
                mock.patch.multiple(many, HELD_REQUESTS=3, HELD_BYTES=1 << 10, REPLY_BYTES=1 << 8)
            )
        service = LossService(
            self._batcher,
            self.admission,
            self.window,
            self.regions,
            pb.GetServerInfoResponse(),
            self.handover,
        )
        self._handlers = service.handlers()
        return self

    async def __aexit__(self, kind, error, trace):
        with self._patches:
            if kind is None:
                await self._settle()

    def _call(self):
        is_short = Condition.SHORT_DEADLINE in self._condition
        return _Call(SHORT_SECONDS if is_short else None)

    def _handler(self, method):
        details = SimpleNamespace(method=f"/{SERVICE}/{method}", invocation_metadata=())
        return self._handlers.service(details)

    async def unary(self, method, payload):
        """Makes a call of one message each way."""
        call = self._call()
        try:
            call.reply(await self._handler(method).unary_unary(payload, call))
        except _Aborted:
            pass
        finally:
            call.end()
        return call.answer

    async def stream(self, method, steps):
        """Makes a call of many messages, step by step."""
        call, messages, taking = self._call(), asyncio.Queue(), asyncio.Event()
        taking.set()
        turns = asyncio.Semaphore(0)

        async def sent():
            while (payload := await messages.get()) is not None:
                yield payload

        async def taken():
            try:
                replies = self._handler(method).stream_stream(sent(), call)
                async for reply in replies:
                    call.reply(reply)
                    if not taking.is_set():
                        await _first(taking.wait(), turns.acquire())
            except _Aborted:
                pass
            except asyncio.CancelledError:
                call.answer.is_cancelled = True

        taker, drain = asyncio.create_task(taken()), None
        for step in steps:
            match step.kind:
                case Kind.SEND:
                    messages.put_nowait(step.content)
                case Kind.PAUSE:
                    for _ in range(len(step.content)):
                        await asyncio.sleep(0)
                case Kind.WAIT:
                    await asyncio.sleep(len(step.content) / 1000)
                case Kind.HOLD:
                    taking.clear()
                case Kind.TAKE:
                    for _ in step.content:
                        turns.release()
                case Kind.CANCEL:
                    await asyncio.sleep(0)  # the handler has begun, as gRPC sees to it
                    taker.cancel()
                case Kind.DRAIN if drain is None:
                    drain = asyncio.create_task(self.admission.drain(1.0))
        messages.put_nowait(None)
        taking.set()
        await taker
        call.end()
        if drain is not None:
            await drain
        return call.answer

    async def _settle(self):
        """Waits for what is still ending; all that was taken must then be free."""
        await asyncio.sleep(0)  # generators that nobody holds are closed from the next turn on
        for _ in range(_SETTLING_TURNS):
            if len(asyncio.all_tasks()) == 1 and not self._batcher._in_flight:
                break
            await asyncio.sleep(_SETTLING_SECONDS)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left, f"tasks are left: {left}"
        assert not self._batcher._in_flight, "a batch is left"
        assert not self._batcher._groups, "requests are left in the batcher"
        assert self._batcher._crash is None, self._batcher._crash
        await self._batcher.close()
        admission = self.admission
        held = (admission.held_bytes, admission._requests, admission._streams, admission._calls)
        assert held == (0, 0, 0, 0), f"bytes, requests, streams, calls are held: {held}"
        assert not admission._accounts, "accounts are left"
        assert not admission._on_drain, "somebody waits for the end"
        assert self.window._free == self._room, "a block's room was not given back"
        assert not self.window._waiting, "a block waits for room"


async def _first(*awaitables):
    """Waits for one of several; the others are dropped."""
    tasks = [asyncio.ensure_future(each) for each in awaitables]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
