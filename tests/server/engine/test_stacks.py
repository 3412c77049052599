"""Small requests computed as one: the bits that each gets alone."""

import itertools

import ml_dtypes
import numpy as np
import pytest

from losswire_proto.losses import LossCall, SigmoidCrossEntropy, Softmax, SoftmaxCrossEntropy
from losswire_server.engine.numpy_engine import NumpyEngine
from losswire_server.engine.stacks import STACKED_BYTES, stacks
from losswire_server.requests import UNKNOWN, LossRequest

CLASSES = 5


@pytest.fixture(scope="module")
def engine():
    running = NumpyEngine(1)
    yield running
    running.close()


def bits(result):
    arrays = [result.loss, result.per_example, result.grad_logits, result.grad_labels]
    arrays += [result.output, *result.extras.values()]
    return [None if a is None else (a.dtype.name, a.shape, a.tobytes()) for a in arrays]


def five_of(random, rows, dtype, call, reading="ids", largest_id=CLASSES, **weights):
    """Requests of one form: one with a row of no softmax, one whose labels are all 3."""
    form, made = UNKNOWN, []
    for index in range(5):
        logits = (random.normal(size=(rows, CLASSES)) * 9).astype(dtype)
        if index == 2 and rows:
            logits[0] = -np.inf
        labels = random.integers(0, largest_id, rows)
        if index == 1:
            labels[:] = 3
        if reading != "ids":
            labels = random.random((rows, CLASSES)).astype(np.float32)
        given = {name: make(index) for name, make in weights.items()}
        labels = None if reading == "none" else labels
        made.append(LossRequest(call, logits, 1, labels, reading, form=form, **given))
        form = made[0].form
    return made


@pytest.mark.parametrize("rows", [0, 1, 8, 131])
@pytest.mark.parametrize(
    "dtype", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64], ids=lambda d: d.__name__
)
def test_stacked_requests_have_the_bits_of_lone_ones(engine, dtype, rows):
    """Every reduction, normalizer and kind of labels and weights; empty means among them."""
    random = np.random.default_rng(rows)
    extras = ("logsumexp", "argmax", "entropy")
    losses = [
        (SoftmaxCrossEntropy(extras=extras), {}),
        (SoftmaxCrossEntropy(ignore_index=3), {"largest_id": 4}),
        (SoftmaxCrossEntropy(out_of_range="nan"), {"largest_id": CLASSES + 1}),
        (SoftmaxCrossEntropy(), {"reading": "distribution"}),
        (SoftmaxCrossEntropy(), {"sample_weight": lambda i: random.random(rows) * (i != 3)}),
        (SoftmaxCrossEntropy(), {"class_weight": lambda _: np.arange(CLASSES) / 7}),
        (SigmoidCrossEntropy(), {"reading": "elements"}),
    ]
    for (loss, options), reduction, normalizer, empty_mean in itertools.product(
        losses, ("none", "sum", "mean"), ("valid", "weights", "size", 3.0, 0.0), ("nan", "zero")
    ):
        call = LossCall(loss, -1, reduction, normalizer, empty_mean, grad_logits=True)
        requests = five_of(random, rows, dtype, call, **options)
        assert len(stacks(requests)) == 1
        together = [bits(result) for result in engine.compute(requests)]
        assert together == [bits(engine.compute([request])[0]) for request in requests]
    transforms = five_of(random, rows, dtype, LossCall(Softmax()), reading="none")
    together = [bits(result) for result in engine.compute(transforms)]
    assert together == [bits(engine.compute([request])[0]) for request in transforms]


def test_results_are_in_the_order_of_the_requests(engine):
    """Requests of several forms, mixed, each get their own result."""
    random = np.random.default_rng(0)
    call = LossCall(reduction="sum", grad_logits=True)
    kinds = [five_of(random, rows, np.float32, call) for rows in (2, 3, 4)]
    mixed = [request for group in zip(*kinds, strict=True) for request in group]
    assert len(stacks(mixed)) == 3
    results = engine.compute(mixed)
    assert [bits(each) for each in results] == [bits(engine.compute([r])[0]) for r in mixed]


def test_large_requests_are_not_copied():
    """What is large is computed where it lies."""
    rows = STACKED_BYTES // (CLASSES * 4)
    requests = five_of(np.random.default_rng(0), rows, np.float32, LossCall())
    assert [stack.whole for stack in stacks(requests)] == requests
