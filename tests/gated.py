"""A server in this process whose engine computes only while its gate is open."""

import asyncio
import threading

import pytest

from losswire_server import runtime
from losswire_server.config import load_settings
from losswire_server.engine.numpy_engine import NumpyEngine
from losswire_server.regions import Regions


class GatedServer:
    """Serves from a thread; what it holds can be looked at.

    Attributes:
        target: where clients connect to.
        regions: that clients share with it.
    """

    name, device, quick_bytes, registrar = "gated", "none", 0, None

    def __init__(self):
        self._gate = threading.Event()
        self.hold()
        self.open()
        self._engine = NumpyEngine(threads=1)
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def compute(self, requests):
        entered, left = self._entered, self._left
        entered.release()
        assert self._gate.wait(60)
        results = self._engine.compute(requests)
        left.release()
        return results

    def hold(self):
        """Closes the gate; batches are counted from now on."""
        self._entered, self._left = threading.Semaphore(0), threading.Semaphore(0)
        self._gate.clear()

    def open(self):
        """Opens the gate."""
        self._gate.set()

    def close(self):
        self._engine.close()

    def wait_until_entered(self):
        """Waits until one more batch has come to the gate."""
        assert self._entered.acquire(timeout=30), "no batch came"

    def wait_until_left(self):
        """Waits until one more batch has been computed."""
        assert self._left.acquire(timeout=30), "no batch was computed"

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_error):
        self.open()
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def _serve(self):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(runtime, "choose_engine", lambda *_arguments: (self, "a test's"))
            patch.setattr(runtime, "Regions", self._made)
            settings = load_settings(port=0, drain_seconds=5.0, log_level="error")
            asyncio.run(self._run(settings))

    def _made(self, limit, registrar):
        self.regions = Regions(limit, registrar)
        return self.regions

    async def _run(self, settings):
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        await runtime.serve(settings, self._stop, self._on_ready)

    def _on_ready(self, target):
        self.target = target
        self._ready.set()
