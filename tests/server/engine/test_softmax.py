"""Rows that are exponentiated as they are beside rows that are shifted first; many classes."""

import numpy as np
import pytest

from losswire_proto.losses import LossCall, Softmax, SoftmaxCrossEntropy
from losswire_server.engine.layout import FEW_CLASSES
from losswire_server.engine.numpy_engine import NumpyEngine
from losswire_server.engine.softmax import CALM
from losswire_server.requests import LossRequest
from reference import assert_close, loss_and_gradient

CLASSES = FEW_CLASSES + 36
TOPS = [-90.0, -1.0, -0.0, 0.0, 1e-3, 3.0, 30.0, CALM, np.nextafter(CALM, 99), 90.0, 1e4, 3e38]


@pytest.fixture(scope="module")
def engine():
    made = NumpyEngine(threads=1)
    yield made
    made.close()


def rows_with_tops(tops, dtype=np.float32):
    """One row for each largest logit, which is class 7's; the others are up to 25 below."""
    random = np.random.default_rng(8)
    logits = -25 * random.random((len(tops), CLASSES))
    logits[:, 7] = 0
    return (logits + np.array(tops)[:, None]).astype(dtype)


def compute(engine, logits, ids, scale=1.0, loss=None):
    call = LossCall(loss or SoftmaxCrossEntropy(), grad_logits=ids is not None)
    reading = "none" if ids is None else "ids"
    weight = None if scale == 1.0 else np.full(len(logits), scale, np.float32)
    return engine.compute([LossRequest(call, logits, 1, ids, reading, sample_weight=weight)])[0]


@pytest.mark.parametrize("label", [7, 3])
def test_every_height_of_the_largest_logit(engine, label):
    """Losses, and gradients class by class, keep their digits on either side of every bound."""
    logits = rows_with_tops(TOPS[:-1])
    ids = np.full(len(logits), label)
    result = compute(engine, logits, ids)
    loss, gradient = loss_and_gradient(logits, ids)
    assert_close(result.per_example, loss, 1e-6)
    gradient[:, label] = np.expm1(-loss)
    # A difference of up to 25 is rounded by 2^-20, and with it a probability.
    assert_close(result.grad_logits, gradient, 2.0**-19)


def test_rows_that_are_not_shifted_lose_nothing_to_a_difference(engine):
    """Without a difference to be rounded, probabilities are good to a few units at any gap."""
    logits = rows_with_tops([5.0, 20.0, 60.0])
    p = compute(engine, logits, None, loss=Softmax()).output
    exact = np.exp(logits.astype(np.longdouble))
    assert_close(p, exact / exact.sum(axis=1, keepdims=True), 2.0**-21)


@pytest.mark.parametrize("gap", [0.0, 0.3, 3.0, 9.0, 25.0])
def test_entropy_keeps_its_digits_at_every_height(engine, gap):
    """Of flat rows, where z_j comes off at the end, and of sure ones, where it must come off first.

    Beside the largest logit and one that is `gap` below it the others are low, or masked.
    """
    logits = rows_with_tops(TOPS[:-1])
    logits[:, 8:] -= 40
    logits[:, 9] = -np.inf
    logits[:, 3] = logits[:, 7] - np.float32(gap)
    flat = rows_with_tops(TOPS[:-1]) / np.float32(8)
    for rows in (logits, flat):
        loss = SoftmaxCrossEntropy(extras=("entropy",))
        entropy = compute(engine, rows, np.zeros(len(rows), int), loss=loss).extras["entropy"]
        assert_close(entropy, exact_entropy(rows), 2.0**-20)


def exact_entropy(logits):
    """log(1 + t) - Σ p * (z - z_j), in long double."""
    shifted = logits.astype(np.longdouble)
    shifted -= shifted[:, 7:8]
    exp = np.exp(shifted)
    tail = np.delete(exp, 7, axis=1).sum(axis=1)
    shifted[exp == 0] = 0
    return np.log1p(tail) - (exp * shifted).sum(axis=1) / (1 + tail)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("beside", [-3.0, 1e4, np.nan, np.inf, -np.inf])
def test_a_row_is_shifted_or_not_whatever_lies_beside_it(engine, dtype, beside):
    """A tile all of whose rows are calm skips a pass; that changes no bit of any of them.

    Nor does the pass that the entropy of one row takes change that of others.
    """
    logits = rows_with_tops([5.0, 40.0, 0.0], dtype)
    mixed = np.concatenate([logits, np.full((1, CLASSES), beside, dtype)])
    ids = np.array([7, 3, 0, 0])
    loss = SoftmaxCrossEntropy(extras=("entropy",))
    among_others = compute(engine, mixed, ids, loss=loss)
    for rows in (slice(0, 3), slice(0, 1), slice(1, 2)):
        calm = compute(engine, logits[rows], ids[rows], loss=loss)
        assert calm.per_example.tobytes() == among_others.per_example[rows].tobytes()
        assert calm.grad_logits.tobytes() == among_others.grad_logits[rows].tobytes()
        assert calm.extras["entropy"].tobytes() == among_others.extras["entropy"][rows].tobytes()


@pytest.mark.parametrize("scale", [1e-20, 1e-30, 1e-36])
def test_small_scales_keep_their_digits(engine, scale):
    """What a gradient is multiplied by may be small where the exponentials are large."""
    logits = rows_with_tops([1.0, 20.0, CALM, 90.0])
    ids = np.array([3, 3, 3, 7])
    gradient = compute(engine, logits, ids, scale).grad_logits.astype(np.float64)
    _, expected = loss_and_gradient(logits, ids)
    expected *= np.float32(scale)
    assert_close(gradient, expected, 2.0**-19, floor=2.0**-126)
    assert (gradient[:3, 7] > 0.1 * scale).all()
    strange = np.full((1, CLASSES), np.nan, np.float32)
    beside = compute(engine, np.concatenate([logits, strange]), np.append(ids, 0), scale)
    assert np.array_equal(beside.grad_logits[:4], gradient)
    assert np.isnan(beside.grad_logits[4]).all()


@pytest.mark.parametrize("heavy", [1e2, 1e4, 1e6])
def test_uneven_class_weights_smooth_to_full_digits(engine, heavy):
    """Also where nearly all weight is on the largest logit, and the others count for nearly all."""
    random = np.random.default_rng(5)
    logits = random.uniform(36, 41, (200, CLASSES)).astype(np.float32)
    logits[:, 7] = random.uniform(60, 64, 200)
    weights = np.ones(CLASSES, np.float32)
    weights[7] = heavy
    call = LossCall(SoftmaxCrossEntropy(label_smoothing=0.1))
    ids = np.full(200, 7)
    [result] = engine.compute([LossRequest(call, logits, 1, ids, "ids", class_weight=weights)])
    of_classes = np.stack(
        [loss_and_gradient(logits, np.full(200, each))[0] for each in range(CLASSES)], axis=1
    )
    expected = 0.9 * heavy * of_classes[:, 7] + 0.1 / CLASSES * (of_classes * weights).sum(axis=1)
    assert_close(result.per_example, expected, 2.0**-21)


@pytest.mark.parametrize("gap", [13.7, 20.2, 66.1, 80.3])
def test_sure_rows_of_many_classes_keep_their_digits(engine, gap):
    """One logit far above the others, shifted or not: the loss is good to 1e-6 however small."""
    logits = np.random.default_rng(4).normal(size=(200, CLASSES)).astype(np.float32)
    logits[:, 2:] -= 200  # roundings of many terms would make up for each other
    logits[:, 7] = gap
    ids = np.full(200, 7)
    result, (loss, _) = compute(engine, logits, ids), loss_and_gradient(logits, ids)
    assert_close(result.per_example, loss, 1e-6)
    assert_close(result.grad_logits[:, 7], np.expm1(-loss), 1e-6)
