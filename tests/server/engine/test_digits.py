"""Digits that are kept: of confident rows, under common offsets, and in half precision."""

import numpy as np
import pytest

from losswire_proto import losses
from numpy_engines import compute, compute_loss, of_two_threads
from reference import DTYPES, assert_close, loss_and_gradient

engine = pytest.fixture(of_two_threads, scope="module")


def test_gradient_rows_sum_to_zero(engine):
    """Softmax is invariant to a common offset, so each gradient row sums to 0."""
    logits = np.random.default_rng(2).normal(size=(50, 37)).astype(np.float32)
    for labels in (np.arange(50) % 37, np.full((50, 37), 1 / 37, np.float32)):
        grad = compute(engine, logits, labels).grad_logits
        # 37 terms, each rounded to float32 at magnitude below 1
        assert np.abs(grad.sum(axis=1, dtype=np.float64)).max() < 37 * 2**-24


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_confident_rows_keep_their_digits(engine, dtype):
    """At p_y = 1 - 1e-9 the loss is 1e-9 and the gradient -1e-9, to full relative precision."""
    gap = np.log(1e9)
    logits = np.array([[gap, 0.0]], dtype)
    tail = np.exp(-np.float64(logits[0, 0]))
    for labels in (np.array([0]), np.array([[1.0, 0.0]])):
        result = compute(engine, logits, labels)
        tolerance = {"float32": 3e-7, "float64": 1e-15}[dtype]
        np.testing.assert_allclose(result.per_example, [np.log1p(tail)], rtol=tolerance)
        np.testing.assert_allclose(
            result.grad_logits, [[-tail / (1 + tail), tail / (1 + tail)]], rtol=tolerance
        )


def test_confident_predictions_in_bfloat16(engine):
    """p = 0.999…: the loss and the gradient of the true class keep their digits, and their sign."""
    logits = np.zeros((6, 3), DTYPES[1])
    logits[:, 1] = [7, 8, 10, 16, 30, 80]
    labels = np.full(6, 1)
    result = compute_loss(engine, losses.SoftmaxCrossEntropy(), logits, labels, "ids")
    tail = 2 * np.exp(-logits[:, 1].astype(np.float64))
    np.testing.assert_allclose(result.per_example, np.log1p(tail), rtol=1e-6)
    gradient = result.grad_logits[:, 1].astype(np.float64)
    np.testing.assert_allclose(gradient, -tail / (1 + tail), rtol=2.0**-8)


@pytest.mark.parametrize("gap", [9.0, 12.3, 13.7, 16.1, 20.2, 31.7, 60.3, 90.1])
def test_sure_rows_keep_their_digits_whatever_the_gap(engine, gap):
    """One logit far above the others: the float32 loss is good to 1e-6, however small it is."""
    logits = np.random.default_rng(4).normal(size=(200, 6)).astype(np.float32)
    logits[:, 2] += np.float32(gap)
    ids = np.full(200, 2)
    for labels in (ids, np.eye(6, dtype=np.float32)[ids]):
        result = compute(engine, logits, labels)
        loss, _ = loss_and_gradient(logits, labels)
        # float32 below its smallest normal number has fewer digits, in steps of 2^-149.
        floor = 2.0**-126
        assert_close(result.per_example, loss, 1e-6, floor)
        # p - 1 = e^-loss - 1, which long double cannot form as a difference
        assert_close(result.grad_logits[:, 2], np.expm1(-loss), 1e-6, floor)


@pytest.mark.parametrize("classes", [10, 64, 100, 1000, 1023, 3000])
def test_equal_logits_far_below_keep_digits(engine, classes):
    """Two likely classes and many that are equally unlikely, as those that pad a vocabulary are.

    To 4 units in the last place, 2^-21, of the loss and of what roundings of the logits do to it.
    """
    random = np.random.default_rng(classes)
    logits = np.repeat(random.uniform(-20, 0, (1500, 1)), classes, axis=1)
    logits[:, 3], logits[:, 9] = 1, random.uniform(-11, 1, 1500)
    logits = logits.astype(np.float32)
    ids = np.full(1500, 3)
    spread = np.full(logits.shape, 1 / classes, np.float32)
    for labels in (ids, spread):
        loss, slopes = loss_and_gradient(logits, labels)
        scale = loss + np.abs(slopes * logits).sum(axis=1)
        result = compute(engine, logits, labels)
        assert (np.abs(result.per_example - loss) / scale).max() < 2.0**-21


def test_common_offset_changes_nothing(engine):
    """Adding 2^20 to all logits of a row, which float32 holds exactly here, changes no bit."""
    logits = np.random.default_rng(3).integers(-8, 8, (20, 10)).astype(np.float32)
    ids = np.arange(20) % 10
    plain, offset = compute(engine, logits, ids), compute(engine, logits + 2.0**20, ids)
    assert np.array_equal(plain.per_example, offset.per_example)
    assert np.array_equal(plain.grad_logits, offset.grad_logits)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_common_offsets_of_ten_thousand(engine, dtype):
    """1e4 added to all logits of a row: the loss is that of the logits as they then are."""
    logits = (np.random.default_rng(6).normal(size=(20, 5)) + 1e4).astype(dtype)
    ids = np.arange(20) % 5
    wide = logits.astype(np.longdouble)
    wide -= wide.max(axis=1, keepdims=True)
    expected = np.log(np.exp(wide).sum(axis=1)) - wide[np.arange(20), ids]
    result = compute_loss(engine, losses.SoftmaxCrossEntropy(), logits, ids, "ids")
    tolerance = {"float32": 1e-6, "float64": 1e-13}[dtype]
    np.testing.assert_allclose(result.per_example, expected.astype(float), rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_300_000_classes(engine, dtype):
    """A vocabulary of 300,000, ids beyond 2^16 and 2^18, by sums in long double."""
    logits = np.random.default_rng(7).normal(size=(3, 300_000)).astype(dtype)
    ids = np.array([299_999, 70_000, 0])
    wide = logits.astype(np.float64).astype(np.longdouble)
    total = np.exp(wide).sum(axis=1)
    picked = wide[np.arange(3), ids]
    result = compute_loss(engine, losses.SoftmaxCrossEntropy(), logits, ids, "ids")
    tolerance = 1e-13 if dtype == np.float64 else 2.0**-22
    expected = (np.log(total) - picked).astype(float)
    np.testing.assert_allclose(result.per_example, expected, rtol=tolerance)
    at_true = result.grad_logits[np.arange(3), ids].astype(np.float64)
    np.testing.assert_allclose(at_true, (np.exp(picked) / total - 1).astype(float), rtol=2.0**-8)


def test_half_gradient_is_rounded_once(engine):
    """A half-precision gradient is the float32 one, rounded: p - 1 is formed before."""
    logits = np.array([[8.0, 0.0, 0.0]])
    wide = compute(engine, logits.astype(np.float32), np.array([0])).grad_logits
    for dtype in DTYPES[:2]:
        half = compute(engine, logits.astype(dtype), np.array([0])).grad_logits
        assert np.array_equal(half, wide.astype(dtype))
        assert half[0, 0] != 0


def test_sigmoid_keeps_the_digits_of_weights_near_zero(engine):
    """With pos_weight 0 what is left of a label 1 - 2^-10 is 2^-10 of softplus, to float32."""
    logits, labels = np.float32([-3, -0.5, 0, 2, 40]), np.full(5, 1 - 2.0**-10, np.float32)
    result = compute_loss(
        engine,
        losses.SigmoidCrossEntropy(),
        logits,
        labels,
        "elements",
        pos_weight=np.zeros(1, np.float32),
    )
    z = logits.astype(np.float64)
    np.testing.assert_allclose(result.per_example, 2.0**-10 * np.logaddexp(0, z), rtol=2.0**-22)
    expected = 2.0**-10 / (1 + np.exp(-z))
    np.testing.assert_allclose(result.grad_logits, expected, rtol=2.0**-22)
