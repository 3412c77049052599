"""A stream as the server keeps it: what it holds, what its blocks know, and what it adds up."""

import threading

import numpy as np
import pytest

from losswire_proto.losses import (
    KlDivergence,
    LossCall,
    SequenceLoss,
    SigmoidCrossEntropy,
    Softmax,
    SoftmaxCrossEntropy,
)
from losswire_server.engine.numpy_engine import NumpyEngine
from losswire_server.errors import InvalidRequest
from losswire_server.requests import LossRequest
from losswire_server.streams import Stream, StreamStart

RANDOM = np.random.default_rng(2)


def imagined(shape, dtype=np.float32):
    return np.broadcast_to(np.zeros((), dtype), shape)


def stream_of(call, shape, axis=-1, labels=None, reading="none", in_blocks=False, **weights):
    request = LossRequest(call, imagined(shape), axis % len(shape), labels, reading, **weights)
    return Stream(StreamStart(request, in_blocks))


@pytest.fixture
def engine():
    running = NumpyEngine(threads=2)
    yield running
    running.close()


@pytest.mark.parametrize("rows", [1 << 36, 1 << 57])
@pytest.mark.parametrize("normalizer", ["valid", "weights", "size", 0.0])
@pytest.mark.parametrize("empty_mean", ["nan", "zero"])
def test_rows_that_nobody_sent_take_no_memory_and_no_time(rows, normalizer, empty_mean):
    """A start that announces more rows than any memory holds is begun like any other."""
    call = LossCall(
        reduction="mean", normalizer=normalizer, empty_mean=empty_mean, grad_logits=True
    )
    labels = imagined((rows, 2))
    stream = stream_of(call, (rows, 2), labels=labels, reading="distribution", in_blocks=True)
    block = stream.block(np.zeros((3, 2), np.float32), np.zeros((3, 2), np.float32))
    assert block.rows == 3
    assert len(block.block.weighting.scale) == 3
    with pytest.raises(InvalidRequest, match=f"expected {rows} rows in all, received 3"):
        stream.summary()


def test_what_is_held_until_the_end_is_counted():
    """Labels, weights, and what is derived of them; nothing for what comes with the blocks."""

    def held(call, labels, reading, in_blocks=False, **weights):
        request = LossRequest(call, imagined((1000, 50)), 1, labels, reading, **weights)
        return StreamStart(request, in_blocks).held_bytes

    floats = imagined((1000, 50))
    assert held(LossCall(Softmax()), None, "none") == 0
    assert held(LossCall(), floats, "distribution", True) == 0
    assert held(LossCall(), np.zeros(1000, np.int8), "ids") == 1000 + 16_000
    weight = np.ones(1000)
    assert held(LossCall(), floats, "distribution", True, sample_weight=weight) == 8000 + 16_000
    shared = np.ones((1, 50), np.float32)
    assert held(LossCall(), shared, "distribution") == 200 + 8000
    with_gradient = LossCall(grad_labels=True)
    assert held(with_gradient, shared, "distribution") >= 200 + 8000 + shared.size * 8


CASES = {
    "ids": (LossCall(grad_logits=True, reduction="mean"), "ids", (4, 5, 3)),
    "sequences": (LossCall(SequenceLoss(), grad_logits=True), "ids", (4, 5, 3)),
    "shared": (LossCall(grad_logits=True, grad_labels=True), "distribution", (5, 3)),
    "whole": (LossCall(KlDivergence(), reduction="sum"), "distribution", (4, 5, 3)),
    "elements": (LossCall(SigmoidCrossEntropy(), reduction="mean"), "elements", (4, 5, 3)),
    "no loss": (LossCall(Softmax()), "none", ()),
}


@pytest.mark.parametrize(("call", "reading", "labels"), CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("cuts", [[20], [1, 7, 12], [3] * 6 + [2]], ids=str)
def test_blocks_together_are_the_whole(engine, call, reading, labels, cuts):
    """Results of blocks and the summary are those of the whole request, to the bit."""
    logits = RANDOM.normal(size=(4, 5, 3)).astype(np.float32)
    values = RANDOM.integers(0, 3, (4, 5)) if reading == "ids" else RANDOM.random(labels)
    values = None if reading == "none" else values
    weights = (
        {}
        if reading == "none"
        else {"sample_weight": RANDOM.random((4, 1, 1)[: 2 + (reading == "elements")])}
    )
    (whole,) = engine.compute([LossRequest(call, logits, 2, values, reading, **weights)])
    stream = stream_of(call, (4, 5, 3), labels=values, reading=reading, **weights)
    rows = logits.reshape(-1, *stream.row_spec.shape)
    results, start = [], 0
    for count in np.array(cuts) * (len(rows) // 20):
        stream.check_rows(start, int(count))
        (result,) = engine.compute([stream.block(rows[start : start + count], None)])
        stream.take(result)
        results.append(result)
        start += count
    loss, grad_labels = stream.summary()
    for mine, expected in ((loss, whole.loss), (grad_labels, whole.grad_labels)):
        assert (mine is None) == (expected is None)
        assert mine is None or mine.tobytes() == expected.tobytes()
    for name in ("per_example", "grad_logits", "output"):
        expected = getattr(whole, name)
        parts = [getattr(result, name) for result in results]
        assert expected is None or b"".join(p.tobytes() for p in parts) == expected.tobytes()


def test_labels_that_come_with_the_blocks_are_the_blocks_own(engine):
    """Distributions of the logits' shape have their gradient in each block, none at the end."""
    call = LossCall(grad_labels=True)
    logits, labels = RANDOM.normal(size=(6, 3)), RANDOM.random((6, 3))
    request = LossRequest(call, logits, 1, labels, "distribution")
    (whole,) = engine.compute([request])
    start = StreamStart(
        LossRequest(call, imagined((6, 3), float), 1, imagined((6, 3), float), "distribution"), True
    )
    stream = Stream(start)
    assert not stream.is_serial
    assert stream.label_spec.shape == (3,)
    parts = []
    for span in (slice(0, 4), slice(4, 6)):
        (result,) = engine.compute([stream.block(logits[span], labels[span])])
        stream.take(result)
        parts.append(result.grad_labels)
    assert np.concatenate(parts).tobytes() == whole.grad_labels.tobytes()
    assert stream.summary() == (None, None)


def test_weights_by_element_follow_their_rows(engine):
    """pos_weight that broadcasts along any axis reaches the elements it belongs to."""
    call = LossCall(SigmoidCrossEntropy(), grad_logits=True)
    logits, labels = RANDOM.normal(size=(2, 5)).astype(np.float32), RANDOM.random((2, 5))
    for shape in [(), (1,), (5,), (2, 1), (2, 5)]:
        weight = RANDOM.random(shape)
        request = LossRequest(call, logits, 1, labels, "elements", pos_weight=weight)
        (whole,) = engine.compute([request])
        stream = stream_of(call, (2, 5), labels=labels, reading="elements", pos_weight=weight)
        blocks = [stream.block(part, None) for part in np.split(logits.reshape(-1, 1), [3, 7])]
        losses = [engine.compute([block])[0].per_example for block in blocks]
        assert np.concatenate(losses).tobytes() == whole.per_example.tobytes()


def test_a_stream_that_is_closed_waits_for_nobody(engine):
    """A block of a serial stream does not wait for one before it that will never come."""
    call = LossCall(grad_labels=True)
    labels = RANDOM.random(3)
    stream = stream_of(call, (6, 3), labels=labels, reading="distribution")
    assert stream.is_serial
    stream.block(np.zeros((3, 3), np.float32), None)
    second = stream.block(np.zeros((3, 3), np.float32), None)
    errors = []

    def compute():
        with pytest.raises(RuntimeError, match="could not be computed") as caught:
            engine.compute([second])
        errors.append(caught.value)

    thread = threading.Thread(target=compute)
    thread.start()
    stream.close()
    thread.join()
    assert errors


def test_a_block_that_is_computed_again_counts_once(engine):
    """After a fault of a neighbour a block is computed again; its gradient is in the sum once."""
    call = LossCall(SoftmaxCrossEntropy(), grad_labels=True)
    logits = RANDOM.normal(size=(4, 3)).astype(np.float32)
    labels = RANDOM.random(3)
    (whole,) = engine.compute([LossRequest(call, logits, 1, labels, "distribution")])
    stream = stream_of(call, (4, 3), labels=labels, reading="distribution")
    for part in (logits[:2], logits[2:]):
        block = stream.block(part, None)
        engine.compute([block])
        (result,) = engine.compute([block])
        stream.take(result)
    assert stream.summary()[1].tobytes() == whole.grad_labels.tobytes()
