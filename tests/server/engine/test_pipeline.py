"""The pipeline on a fake device: results in any order of things, failures, and what they leave."""

import threading
from contextlib import contextmanager
from dataclasses import replace

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
from losswire_server.requests import UNKNOWN
from losswire_server.streams import Stream, StreamStart

PLENTY = 256 << 20
OPERATIONS = ("allocate", "pin", "upload", "download", "launch", "record", "wait", "is_reached",
              "event", "synchronise")  # fmt: skip
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


@settings(max_examples=80, deadline=None)
@given(batch=batches(), seed=st.integers(0, 1 << 16), chunk_bytes=st.integers(1, 3000))
def test_no_order_and_no_cut_changes_a_bit(batch, seed, chunk_bytes):
    """Any batch, in chunks down to a row and events in any order, has each request's own bits."""
    with running(fake(seed=seed), chunk_bytes=chunk_bytes) as engine:
        together = [bits(result) for result in engine.compute(batch)]
    assert together == [alone(request) for request in batch]


@settings(max_examples=50, deadline=None)
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
                wide = [each.astype(np.float64) for each in (own, other)]
                np.testing.assert_allclose(*wide, rtol=2**-7, atol=1e-2)


@settings(max_examples=50, deadline=None)
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
        lying, position = placed(request, memory, position, in_place=in_place)
        requests.append(lying)
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


def test_what_is_registered_is_not_staged():
    """Large logits and gradients in registered memory are moved by the device alone."""
    memory, device = np.zeros(1 << 20, np.uint8), fake()
    request, _ = placed(rows_of(20_000), memory, 0, in_place=True)
    with running(device) as engine:
        engine.register(memory.ctypes.data, memory.nbytes)
        engine.compute([request])
        assert device.direct_bytes == 2 * request.logits.nbytes
        engine.unregister(memory.ctypes.data)


def test_memory_that_cannot_be_registered_is_staged():
    """A driver that refuses costs time and nothing else."""
    expected = alone(rows_of(20_000))
    memory = np.zeros(1 << 20, np.uint8)
    device = fake(failures={("register", 1): DeviceMemoryError("too much is locked")})
    request, _ = placed(rows_of(20_000), memory, 0, in_place=True)
    with running(device) as engine:
        engine.register(memory.ctypes.data, memory.nbytes)
        assert bits(engine.compute([request])[0]) == expected
        assert device.direct_bytes == 0
        engine.unregister(memory.ctypes.data)


def test_chunks_overlap():
    """Three chunks of one request are on the device before the first is done."""
    request = rows_of(100)
    with running(fake(after_launches=3), chunk_bytes=2000) as engine:
        assert bits(engine.compute([request])[0]) == alone(request)


def test_batches_overlap():
    """So are batches of several threads; each gets its own results."""
    requests = [rows_of(count, count) for count in (3, 5, 7, 11)]
    results = {}
    device = fake(after_launches=3, seed=4)
    with running(device) as engine:

        def compute(number):
            results[number] = bits(engine.compute([requests[number]])[0])

        threads = [threading.Thread(target=compute, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert [results[number] for number in range(4)] == [alone(request) for request in requests]


def test_many_threads_share_few_slots():
    """More threads than slots, each with more chunks than slots, all end, with their own bits."""
    requests = [rows_of(60 + count, count) for count in range(8)]
    expected = [alone(request) for request in requests]
    results = [[] for _ in requests]
    with running(fake(seed=9), chunk_bytes=700) as engine:

        def compute(number):
            for _ in range(5):
                results[number].append(bits(engine.compute([requests[number]])[0]))

        threads = [threading.Thread(target=compute, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert results == [[each] * 5 for each in expected]


def test_a_budget_cuts_batches():
    """Nothing larger than the budget is ever held on the device, whatever is asked for."""
    budget = SLOTS * (1 << 20)
    device = fake(memory_bytes=budget)
    request = rows_of(150_000)
    with running(device, budget=budget) as engine:
        [result] = engine.compute([request])
    assert len(device.launches) > SLOTS
    assert bits(result) == alone(request)


def test_what_finds_no_memory_is_cut_smaller():
    """Where others use the device's memory, chunks shrink until they fit."""
    device = fake(memory_bytes=SLOTS << 20)
    request = rows_of(150_000)
    with running(device) as engine:
        assert bits(engine.compute([request])[0]) == alone(request)


@pytest.mark.parametrize("operation", ["allocate", "pin"])
def test_a_row_that_finds_no_memory_is_refused(operation):
    """A row for which there is no memory fails its request alone, with a retry delay."""
    refusals = {(operation, call): DeviceMemoryError("none left") for call in range(1, 30)}
    device = fake(failures=refusals)
    request = rows_of(9)
    with running(device) as engine:
        with pytest.raises(Overloaded, match="no memory on the GPU: none left") as refused:
            engine.compute([request])
        assert refused.value.retry_delay_ms > 0
        device.failures.clear()
        assert bits(engine.compute([request])[0]) == alone(request)


def test_a_row_beyond_the_budget_is_refused():
    """The message names what is needed and the setting that does not allow it."""
    common = replace(FLOATS32, classes=128_000)
    request = request_of(common, np.random.default_rng(0), (1,), 1)
    message = r"51\d+ bytes are needed.*1024 are allowed.*gpu_memory"
    with running(fake(), budget=SLOTS << 10) as engine, pytest.raises(Overloaded, match=message):
        engine.compute([request])


def test_a_launch_that_fails_is_an_engine_fault():
    """The batch fails, what was in flight lands first, and the next batch is computed."""
    device = fake(failures={("launch", 3): LaunchError("too many resources requested")})
    request = rows_of(100)
    with running(device, chunk_bytes=2000) as engine:
        with pytest.raises(LaunchError, match="too many"):
            engine.compute([request])
        assert bits(engine.compute([request])[0]) == alone(request)


def test_a_lost_device_fails_everything():
    """Its request, those that wait, and all that come later; the loss is told once."""
    told = []
    device = fake(failures={("is_reached", 9): DeviceLost("fell off the bus")})
    with running(device, chunk_bytes=700, told=told) as engine:
        failures = []

        def compute():
            try:
                while True:
                    engine.compute([rows_of(50)])
            except DeviceFailed as error:
                failures.append(str(error))

        threads = [threading.Thread(target=compute) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(failures) == 6
        assert all("fell off the bus" in failure for failure in failures)
        with pytest.raises(DeviceFailed, match="the server ends"):
            engine.compute([rows_of(1)])
    assert told == ["Fake GPU: fell off the bus"]


@settings(max_examples=80, deadline=None)
@given(
    operation=st.sampled_from(OPERATIONS),
    call=st.integers(1, 40),
    error=st.sampled_from([DeviceMemoryError, LaunchError, DeviceLost]),
    seed=st.integers(0, 1 << 16),
)
def test_no_failure_leaves_anything_behind(operation, call, error, seed):
    """Whatever fails, and when: right or an error, all slots back, and the next request right."""
    told = []
    device = fake(seed=seed, failures={(operation, call): error("injected")})
    requests = [rows_of(count, count) for count in (30, 60)]
    try:
        with running(device, chunk_bytes=700, told=told) as engine:
            for _ in range(3):
                try:
                    results = engine.compute(requests)
                except (Overloaded, LaunchError, DeviceFailed):
                    continue
                assert [bits(result) for result in results] == [alone(each) for each in requests]
            assert engine._pipelines[0].free_slots == SLOTS
            device.failures.clear()
            if not told:
                [result] = engine.compute([requests[0]])
                assert bits(result) == alone(requests[0])
            assert not device.is_lost or told
    except (DeviceMemoryError, LaunchError, DeviceLost):
        assert device.calls["launch"] == 0  # it failed to start


def test_ids_that_change_under_the_engine_are_a_fault():
    """What was validated and then changed is found by the kernel, and the row is named."""

    def run(launch, arguments, memory):
        fake_kernels.run(launch, arguments, memory)
        if arguments["rows"] == 7:
            memory.array(arguments["fault"], np.uint64, 1)[0] = 5

    with running(FakeDevice(run), chunk_bytes=1) as engine:
        assert engine.compute([rows_of(8)])
    with (
        running(FakeDevice(run)) as engine,
        pytest.raises(RuntimeError, match="row 1 changed under"),
    ):
        engine.compute([rows_of(4), rows_of(3)])


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 40),
    block_rows=st.integers(1, 40),
    chunk_bytes=st.integers(1, 1500),
    seed=st.integers(0, 1 << 16),
    failing=st.integers(0, 6),
)
def test_blocks_of_a_stream_have_the_bits_of_the_whole(
    rows, block_rows, chunk_bytes, seed, failing
):
    """Rows that come in blocks, with labels that broadcast, sum up to the same gradient to them.

    Also where a block fails half-way and is computed again, in other chunks.
    """
    random = np.random.default_rng(seed)
    common = replace(FLOATS32, kind="broadcast", grad_labels=True)
    whole = request_of(common, random, (rows,), 1, reduction="mean")
    whole = replace(whole, labels=random.random(5).astype(np.float32), form=UNKNOWN)
    expected = alone(whole)
    device = fake(seed=seed, failures={("launch", failing): LaunchError("injected")})
    stream, gradients, losses = Stream(StreamStart(whole, has_block_labels=False)), [], []
    with running(device, chunk_bytes=chunk_bytes) as engine, running(fake()) as other:
        for start in range(0, rows, block_rows):
            block = stream.block(whole.logits[start : start + block_rows], None)
            try:
                [result] = engine.compute([block])
            except LaunchError:
                [result] = other.compute([block])
            stream.take(result)
            gradients.append(result.grad_logits)
            losses.append(result.per_example)
    loss, grad_labels = stream.summary()
    results = [loss, np.concatenate(losses), np.concatenate(gradients), grad_labels]
    assert [(each.dtype.name, each.shape, each.tobytes()) for each in results] == expected[:4]
