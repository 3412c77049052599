"""Regions of shared memory are registered with the GPU's driver once and copied from directly."""

import numpy as np

import fake_kernels
import losswire
from fake_device import FakeDevice
from gpu_served import GpuServer

RANDOM = np.random.default_rng(3)
LOGITS = RANDOM.standard_normal((2_000, 50)).astype(np.float32)
IDS = RANDOM.integers(0, 50, 2_000)


def test_a_region_is_registered_once_and_copied_directly(monkeypatch):
    """For all of its calls; what a call moves of logits and gradients is never staged."""
    device = FakeDevice(fake_kernels.run, seed=2)
    server = GpuServer(monkeypatch, device)
    with losswire.Client(server.target, transport="shared") as client:
        # Arrays of results would hold on to their region, and the next call take another.
        first = client.softmax_cross_entropy(LOGITS, IDS).grad_logits.tobytes()
        assert device.calls["register"] == 1
        assert device.direct_bytes == 2 * LOGITS.nbytes
        for _ in range(4):
            assert client.softmax_cross_entropy(LOGITS, IDS).grad_logits.tobytes() == first
        assert device.calls["register"] == 1
        assert device.direct_bytes == 5 * 2 * LOGITS.nbytes
    with losswire.Client(server.target, transport="inline") as client:
        assert client.softmax_cross_entropy(LOGITS, IDS).grad_logits.tobytes() == first
    server.stop()
    assert device.calls["unregister"] == 1
    assert device.violations == []
    assert device.held == (0, 0, 0)
