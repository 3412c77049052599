"""The pipeline on a fake device: results in any order of things, failures, and what they leave."""

import threading
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fake_kernels
from batches import Common, batches, bits, placed, request_of
from fake_device import FakeDevice
from losswire_server.engine import staging
from losswire_server.engine.device import DeviceLost, DeviceMemoryError, LaunchError
from losswire_server.engine.gpu_engine import GpuEngine
from losswire_server.engine.numpy_engine import NumpyEngine
from losswire_server.engine.pipeline import CHUNK_BYTES, SLOTS
from losswire_server.errors import DeviceFailed, Overloaded

PLENTY = 256 << 20
FLOATS32 = Common("ids", np.dtype(np.float32), 5, grad_logits=True, grad_labels=False,
                  class_weight=None)  # fmt: skip


def fake(**options):
    return FakeDevice(fake_kernels.run, **options)


@contextmanager
def running(*devices, budget=PLENTY, chunk_bytes=CHUNK_BYTES, on_lost=pytest.fail):
    """An engine over fake devices; at the end all is given back and nothing was done wrong."""
    engine = GpuEngine(devices, budget, on_lost, kernels=fake_kernels, chunk_bytes=chunk_bytes)
    yield engine
    assert all(pipeline.free_slots == SLOTS for pipeline in engine._pipelines)
    engine.close()
    for device in devices:
        assert device.violations == []
        assert device.calls["allocate"] - device.calls["free"] == 0 or device._lost
        assert device.held == (0, 0, 0) or device._lost


def rows_of(count, seed=0, **options):
    """A request of so many rows of five classes."""
    return request_of(FLOATS32, np.random.default_rng(seed), (count,), 1, **options)


def alone(request):
    """The bits of one request, uncut, on a device of its own."""
    with running(fake()) as engine:
        return bits(engine.compute([request])[0])


@settings(max_examples=150, deadline=None)
@given(batch=batches(), seed=st.integers(0, 1 << 16), chunk_bytes=st.integers(1, 3000))
def test_no_order_and_no_cut_changes_a_bit(batch, seed, chunk_bytes):
    """Any batch, in chunks down to a row and events in any order, has each request's own bits."""
    with running(fake(seed=seed), chunk_bytes=chunk_bytes) as engine:
        together = [bits(result) for result in engine.compute(batch)]
    assert together == [alone(request) for request in batch]


@settings(max_examples=60, deadline=None)
@given(batch=batches(), seed=st.integers(0, 1 << 16))
def test_agrees_with_the_numpy_engine(batch, seed):
    """All results are those of the NumPy engine, to the rounding of the dtype they are stored in.

    The fake kernels compute in long double, so a difference is a field that went astray.
    """
    numpy = NumpyEngine(1)
    expected = numpy.compute(batch)
    numpy.close()
    with running(fake(seed=seed), chunk_bytes=500) as engine:
        results = engine.compute(batch)
    for mine, theirs in zip(results, expected, strict=True):
        pairs = [(getattr(mine, name), getattr(theirs, name)) for name in
                 ("loss", "per_example", "grad_logits", "grad_labels", "output")]  # fmt: skip
        pairs += [(mine.extras[name], theirs.extras[name]) for name in theirs.extras]
        for own, other in pairs:
            assert (own is None) == (other is None)
            if own is not None:
                assert (own.dtype, own.shape) == (other.dtype, other.shape)
                # bfloat16 has steps of 2^-8; sums of a few terms near 10 may cancel.
                own, other = own.astype(np.float64), other.astype(np.float64)
                np.testing.assert_allclose(own, other, rtol=2**-7, atol=1e-2)


@settings(max_examples=100, deadline=None)
@given(
    batch=batches(),
    seed=st.integers(0, 1 << 16),
    chunk_bytes=st.integers(1, 3000),
    in_place=st.booleans(),
)
def test_registered_memory_is_copied_from_and_to_directly(batch, seed, chunk_bytes, in_place):
    """Logits and results in registered memory, also over one another, change no bit."""
    expected = [alone(request) for request in batch]
    memory, position, requests = np.zeros(1 << 17, np.uint8), 0, []
    for request in batch:
        request, position = placed(request, memory, position, in_place=in_place)
        requests.append(request)
    device = fake(seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(staging, "DIRECT_BYTES", 1)
        with running(device, chunk_bytes=chunk_bytes) as engine:
            engine.register(memory.ctypes.data, memory.nbytes)
            if in_place:
                results = [engine.compute([request])[0] for request in requests]
            else:
                results = engine.compute(requests)
            assert [bits(result) for result in results] == expected
            engine.unregister(memory.ctypes.data)


def test_what_is_registered_is_not_staged(monkeypatch):
    """A large request in registered memory leaves nothing of it in pinned memory."""
    request = rows_of(20_000)
    memory = np.zeros(1 << 20, np.uint8)
    request, _ = placed(request, memory, 0, in_place=True)
    moved = []
    monkeypatch.setattr(np, "copyto", lambda to, *_a, **_k: moved.append(to.nbytes))
    device = fake()
    registered = staging.Registered()
    registered.add(memory.ctypes.data, memory.nbytes)
    from losswire_server.engine.chunks import Chunk
    from losswire_server.engine.fields import layout_of
    from losswire_server.engine.works import Piece, work_of

    device.attach()
    layout = layout_of(Chunk([Piece.whole(work_of(request))]))
    pinned = device.pin(layout.nbytes)
    staging.upload(layout, pinned, registered)
    assert sum(moved) < request.logits.nbytes
    assert staging.download(layout, pinned, registered).moves[-1][1].nbytes == 20_000 * 4
