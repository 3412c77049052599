"""The GPU engine over fake devices, and what it gives for one request alone."""

from contextlib import contextmanager

import numpy as np

import fake_kernels
from batches import Common, bits, request_of
from fake_device import FakeDevice
from losswire_server.engine.gpu_engine import GpuEngine
from losswire_server.engine.pipeline import CHUNK_BYTES, SLOTS

PLENTY = 256 << 20
FLOATS32 = Common("ids", np.dtype(np.float32), 5, grad_logits=True, grad_labels=False,
                  class_weight=None)  # fmt: skip


def fake(**options):
    return FakeDevice(fake_kernels.run, **options)


@contextmanager
def running(*devices, budget=PLENTY, chunk_bytes=CHUNK_BYTES, told=None):
    """An engine over fake devices; at the end all is given back and nothing was done wrong."""
    losses = [] if told is None else told
    engine = GpuEngine(
        devices, budget, losses.append, kernels=fake_kernels, chunk_bytes=chunk_bytes
    )
    try:
        yield engine
        assert all(pipeline.free_slots == SLOTS for pipeline in engine._pipelines)
    finally:
        engine.close()
    for device, pipeline in zip(devices, engine._pipelines, strict=True):
        assert device.violations == []
        assert told is not None or losses == []
        assert device.held == (0, 0, 0) or pipeline.is_lost


def rows_of(count, seed=0, **options):
    """A request of so many rows of five classes."""
    return request_of(FLOATS32, np.random.default_rng(seed), (count,), 1, **options)


def alone(request):
    """The bits of one request, uncut, on a device of its own."""
    with running(fake()) as engine:
        return bits(engine.compute([request])[0])
