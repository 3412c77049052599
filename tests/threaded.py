"""A server in a thread of this process, over an engine of the test's own."""

import asyncio
import threading

from losswire_server import runtime
from losswire_server.config import load_settings
from losswire_server.errors import ServingFailed


class ThreadedServer:
    """Serves from a thread, until what computes is lost or `stop`.

    Args:
        choose: in the place of `runtime.choose_engine`.
        settings: of the server.

    Attributes:
        target: what clients connect to.
        ended: why it ended by itself; None where it was told to.
    """

    def __init__(self, monkeypatch, choose, **settings):
        self._settings = settings
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
