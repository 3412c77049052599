"""A server over a fake GPU, in a thread of this process."""

import asyncio
import threading

import fake_kernels
from fake_device import FakeDevice
from losswire_server import runtime
from losswire_server.config import load_settings
from losswire_server.engine.gpu_engine import GpuEngine
from losswire_server.errors import ServingFailed

LAUNCHES_OF_WARM_UP = 8
"""`runtime.warm_up`: ids and distributions, of four dtypes."""


class GpuServer:
    """Serves from a thread, until its GPU is lost or `stop`.

    Args:
        device: with failures counted from its first launch or allocation.
        budget: of its memory, for the engine.
        settings: of the server.
    """

    def __init__(self, monkeypatch, device, budget=None, kernels=fake_kernels, **settings):
        self.device, self.engine = device, None
        self._settings = settings

        def choose(_wanted, on_lost):
            self.engine = GpuEngine([device], budget, on_lost, kernels=kernels)
            return self.engine, "a test's"

        monkeypatch.setattr(runtime, "choose_engine", choose)
        self.ended = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        assert self._ready.wait(60)

    def join(self):
        """How it ended; it does so by itself."""
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self.ended

    def stop(self):
        """Ends it."""
        self._loop.call_soon_threadsafe(self._stop.set)
        assert self.join() is None

    def _serve(self):
        async def run():
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            settings = load_settings(port=0, drain_seconds=5.0, log_level="error", **self._settings)
            await runtime.serve(settings, self._stop, self._on_ready)

        try:
            asyncio.run(run())
        except ServingFailed as error:
            self.ended = error

    def _on_ready(self, target):
        self.target = target
        self._ready.set()


def failing_at_launch(number, error):
    """A fake GPU that fails at that launch after the server's own at its start."""
    failures = {("launch", LAUNCHES_OF_WARM_UP + number): error}
    return FakeDevice(fake_kernels.run, failures=failures)
