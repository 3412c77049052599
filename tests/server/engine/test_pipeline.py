"""The pipeline on a fake device: results are right in any order of things."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batches import batches, bits, placed, request_of
from getting_on import join_while_it_gets_on
from losswire_server.engine import dispatcher, staging
from losswire_server.engine.device import DeviceMemoryError, LaunchError
from losswire_server.engine.numpy_engine import NumpyEngine
from losswire_server.engine.pipeline import SLOTS
from losswire_server.requests import UNKNOWN
from losswire_server.streams import Stream, StreamStart
from pipelines import FLOATS32, alone, fake, rows_of, running


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


def test_looks_go_on_however_short_the_time_between_them(monkeypatch):
    """A flight that nothing but looking lands does so, also where the next look is always due.

    With a `SimpleQueue` for the jobs, one of these flights stays up for ever, after some hundreds.
    """
    monkeypatch.setattr(dispatcher, "_LOOK_SECONDS", 1e-9)
    request, landed = rows_of(1), []
    with running(fake()) as engine:

        def compute():
            for _ in range(3_000):
                engine.compute([request])
                landed.append(request)

        thread = threading.Thread(target=compute, daemon=True)
        thread.start()
        join_while_it_gets_on(thread, landed)
        assert len(landed) == 3_000


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


def test_weights_of_one_request_are_not_those_of_another():
    """Means of different sizes share a chunk, each with one weight for all of its rows."""
    common = replace(FLOATS32, kind="distribution")
    requests = [replace(request_of(common, np.random.default_rng(count), (count,), 1, "mean"),
                        sample_weight=None) for count in (3, 5)]  # fmt: skip
    device = fake()
    with running(device) as engine:
        results = [bits(result) for result in engine.compute(requests)]
    assert len(device.launches) == 1
    assert results == [alone(request) for request in requests]


def test_each_request_has_its_own_distributions():
    """Labels that broadcast lie one after another in a chunk; every row finds those of its own."""
    common = replace(FLOATS32, kind="broadcast", grad_labels=True)
    requests = [
        replace(
            request_of(common, np.random.default_rng(count), (count,), 1),
            labels=np.random.default_rng(count).random(5),
            form=UNKNOWN,
        )
        for count in (3, 5)
    ]
    device = fake()
    with running(device) as engine:
        results = [bits(result) for result in engine.compute(requests)]
    assert len(device.launches) == 1
    assert results == [alone(request) for request in requests]
