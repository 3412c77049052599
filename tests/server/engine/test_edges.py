"""Values at their edges: extreme, masked, not finite, ignored, out of range, not clipped."""

import numpy as np
import pytest

from losswire_proto import losses
from losswire_proto.losses import SoftmaxCrossEntropy
from numpy_engines import LOGITS, LOSS, compute, compute_loss, of_two_threads
from reference import DTYPES

engine = pytest.fixture(of_two_threads, scope="module")


def test_extreme_logits(engine):
    """±1e30 in float32: a certain row costs nothing, a wrong one its distance."""
    logits = np.array([[1e30, -1e30, 0.0], [1e30, -1e30, 0.0]], np.float32)
    result = compute(engine, logits, np.array([0, 1]))
    np.testing.assert_array_equal(result.per_example, np.float32([0, 2e30]))
    np.testing.assert_array_equal(result.grad_logits, [[0, 0, 0], [1, -1, 0]])


def test_sigmoid_of_extreme_logits(engine):
    """±1e30 and ±inf: right costs nothing, wrong its distance; gradients are 0 and 1."""
    logits = np.float32([1e30, 1e30, -1e30, -1e30, np.inf, -np.inf])
    labels = np.float32([0, 1, 0, 1, 0, 1])
    result = compute_loss(engine, losses.SigmoidCrossEntropy(), logits, labels, "elements")
    expected = np.float32([1e30, 0, 0, 1e30, np.inf, np.inf])
    np.testing.assert_array_equal(result.per_example, expected)
    np.testing.assert_array_equal(result.grad_logits, [1, 0, 0, -1, 1, -1])
    focal = losses.Focal(form="sigmoid", gamma=1.0)
    result = compute_loss(engine, focal, logits[:4], labels[:4], "elements")
    np.testing.assert_array_equal(result.per_example, expected[:4])
    np.testing.assert_array_equal(result.grad_logits, [1, 0, 0, -1])


def test_masked_classes(engine):
    """-inf logits have probability and gradient 0; as the label they cost inf, unweighted 0."""
    logits = np.array([[0.0, -np.inf, 0.0], [0.0, -np.inf, 0.0]], np.float32)
    result = compute(engine, logits, np.array([0, 1]))
    np.testing.assert_allclose(result.per_example, [np.log(2), np.inf], rtol=1e-7)
    np.testing.assert_array_equal(result.grad_logits, [[-0.5, 0, 0.5], [0.5, -1, 0.5]])
    soft = compute(engine, logits, np.array([[0.5, 0.0, 0.5], [0.0, 0.5, 0.5]], np.float32))
    np.testing.assert_allclose(soft.per_example, [np.log(2), np.inf], rtol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf, "all -inf"], ids=str)
def test_rows_without_softmax_are_nan_alone(engine, dtype, bad):
    """NaN, +inf or nothing but -inf makes NaN of its own row and of no other."""
    logits = np.arange(12).reshape(4, 3).astype(dtype)
    good = compute(engine, logits.copy(), np.array([0, 1, 2, 0]))
    logits[2] = -np.inf
    if bad != "all -inf":
        logits[2] = [0, bad, 1]
    for labels in (np.array([0, 1, 2, 0]), np.eye(3, dtype=dtype)[[0, 1, 2, 0]]):
        result = compute(engine, logits, labels)
        assert np.isnan(result.per_example[2])
        assert np.isnan(result.grad_logits[2].astype(np.float32)).all()
        others = [0, 1, 3]
        assert np.isfinite(result.per_example[others]).all()
        if labels.ndim == 1:
            assert np.array_equal(result.per_example[others], good.per_example[others])
            assert np.array_equal(result.grad_logits[others], good.grad_logits[others])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_ignored_rows_are_exactly_zero(engine, bad):
    """Rows with ignore_index have loss 0 and gradient 0, also where their logits are not finite."""
    logits = np.full((3, 4), bad, np.float32)
    logits[1] = [1, 2, 3, 4]
    ids = np.array([-100, 2, -100])
    loss = SoftmaxCrossEntropy(ignore_index=-100)
    result = compute(engine, logits, ids, loss=loss, reduction="mean")
    assert result.per_example[[0, 2]].tolist() == [0, 0]
    assert (result.grad_logits[[0, 2]] == 0).all()
    # One of three counts, so the mean is its own loss: log(1 + e^-1 + e^-2 + e^-3) + 1.
    assert result.loss == pytest.approx(1.4401896985611953, rel=1e-7)


def test_ignore_index_may_be_a_class(engine):
    """An ignore_index within [0, classes) ignores that class."""
    loss = SoftmaxCrossEntropy(ignore_index=1)
    result = compute(engine, LOGITS, np.array([0, 1]), loss=loss, reduction="mean")
    assert result.loss == pytest.approx(LOSS[0], rel=1e-15)
    assert result.per_example[1] == 0


@pytest.mark.parametrize(("mode", "expected"), [("nan", np.nan), ("ignore", 0.0)])
def test_ids_out_of_range_as_asked(engine, mode, expected):
    """Out of range, "nan" makes the row NaN and "ignore" counts it as ignored; none wraps round."""
    ids = np.array([0, -1, 3, 1])
    logits = np.concatenate([LOGITS, LOGITS])
    loss = SoftmaxCrossEntropy(out_of_range=mode)
    result = compute(engine, logits, ids, loss=loss)
    np.testing.assert_array_equal(result.per_example[1:3], [expected] * 2)
    np.testing.assert_array_equal(result.grad_logits[1:3], np.full((2, 3), expected))
    assert np.isfinite(result.per_example[[0, 3]]).all()
    mean = compute(engine, logits, ids, loss=loss, reduction="mean").loss
    good = result.per_example[[0, 3]].mean()
    assert mean == pytest.approx(good) if mode == "ignore" else np.isnan(mean)


def test_probabilities_without_clipping(engine):
    """With an epsilon of 0 a certain, right answer costs 0 and a certain, wrong one infinity."""
    loss, p = losses.BinaryCrossEntropy(epsilon=0.0), np.float32([0, 1, 0, 1])
    result = compute_loss(engine, loss, p, np.float32([0, 1, 1, 0]), "elements")
    assert result.per_example.tolist() == [0, 0, np.inf, np.inf]
    assert result.grad_logits[:2].tolist() == [1, -1]
    loss, p = losses.CategoricalCrossEntropy(epsilon=0.0), np.float32([[0, 1], [0, 1]])
    result = compute_loss(engine, loss, p, np.array([1, 0]), "ids")
    assert result.per_example.tolist() == [0, np.inf]
    assert result.grad_logits[0].tolist() == [1, 0]
