"""A real server in this process: its engine waits for the test, and its counters can be seen."""

import asyncio
import threading
from concurrent.futures import Future

import grpc

from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_server.admission import Admission, Room
from losswire_server.batcher import Batcher
from losswire_server.engine.numpy_engine import NumpyEngine
from losswire_server.groups import BatchLimits
from losswire_server.regions import Regions
from losswire_server.service import LossService
from losswire_server.window import Window

LONG = 60
"""Seconds after which a test gives up; nothing here takes as many milliseconds."""


class GatedEngine:
    """NumPy's engine behind a gate: while that is shut, batches are begun and do not end."""

    name = device = "gated"
    quick_bytes = 0

    def __init__(self):
        self._engine = NumpyEngine(threads=1)
        self._entered = threading.Semaphore(0)
        self.gate = threading.Event()
        self.gate.set()
        self.rows = []

    def compute(self, requests):
        self.rows += [request.rows for request in requests]
        self._entered.release()
        assert self.gate.wait(LONG)
        return self._engine.compute(requests)

    def wait_for_batch(self):
        """Waits until one more batch has been begun."""
        assert self._entered.acquire(timeout=LONG), "no batch is begun"

    def close(self):
        self._engine.close()


class Served:
    """Serves on a free port, from an event loop on a thread of its own."""

    def __init__(self, queue_bytes=1 << 30, stream_bytes=256 << 20, unix_socket=None):
        self.engine = GatedEngine()
        self.admission, self.window = Admission(Room(queue_bytes)), Window(stream_bytes)
        self._stream_bytes = stream_bytes
        self._unix_socket = unix_socket
        self._ready: Future[str] = Future()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        self.target = self._ready.result(LONG)
        return self

    def __exit__(self, *_):
        self.engine.gate.set()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def wait_until_idle(self):
        """Waits until no call is left; checks that nothing is held for any."""
        asyncio.run_coroutine_threadsafe(self.admission._idle.wait(), self._loop).result(LONG)
        assert asyncio.run_coroutine_threadsafe(self._held(), self._loop).result(LONG) == (0, 0, 0)

    async def _held(self):
        """Bytes of calls and of blocks, and requests that wait to be computed, once settled."""
        window = await self.window.take(self._stream_bytes)  # waits for whoever is still leaving
        window()
        waiting = sum(group.rows for group in self._batcher._groups.values())
        return self.admission.held_bytes, self._stream_bytes - self.window._free, waiting

    def _run(self):
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._ready.done():
                raise
            self._ready.set_exception(error)

    async def _serve(self):
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._batcher = Batcher(self.engine, BatchLimits(1 << 17, 64 << 20, 200))
        info = pb.GetServerInfoResponse()
        service = LossService(self._batcher, self.admission, self.window, Regions(0), info)
        server = grpc.aio.server(options=[("grpc.max_receive_message_length", 64 << 20)])
        server.add_generic_rpc_handlers((service.handlers(),))
        if self._unix_socket is None:
            target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        else:
            target = f"unix:{self._unix_socket}"
            server.add_insecure_port(target)
        await server.start()
        self._ready.set_result(target)
        await self._stop.wait()
        await server.stop(None)
        await self._batcher.close()
        self.engine.close()
