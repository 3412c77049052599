"""A server over a fake GPU, in a thread of this process."""

import fake_kernels
from fake_device import FakeDevice
from losswire_server.engine.gpu_engine import GpuEngine
from threaded import ThreadedServer

LAUNCHES_OF_WARM_UP = 8
"""`runtime.warm_up`: ids and distributions, of four dtypes."""


class GpuServer(ThreadedServer):
    """Serves from a thread, until its GPU is lost or `stop`.

    Args:
        device: with failures counted from its first launch or allocation.
        budget: of its memory, for the engine.
        settings: of the server.
    """

    def __init__(self, monkeypatch, device, budget=None, kernels=fake_kernels, **settings):
        self.device, self.engine = device, None

        def choose(_wanted, on_lost):
            self.engine = GpuEngine([device], budget, on_lost, kernels=kernels)
            return self.engine, "a test's"

        super().__init__(monkeypatch, choose, **settings)


def failing_at_launch(number, error):
    """A fake GPU that fails at that launch after the server's own at its start."""
    failures = {("launch", LAUNCHES_OF_WARM_UP + number): error}
    return FakeDevice(fake_kernels.run, failures=failures)
