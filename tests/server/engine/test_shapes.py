"""Shapes and dtypes: any rank and axis, one class, no rows, labels that broadcast, ids."""

import numpy as np
import pytest

from losswire_proto import losses
from losswire_proto.losses import LossCall
from losswire_server.engine import tiles
from losswire_server.requests import LossRequest
from numpy_engines import LOGITS, LOSS, compute, compute_loss, of_two_threads
from reference import DTYPES, assert_close, loss_and_gradient

engine = pytest.fixture(of_two_threads, scope="module")


@pytest.mark.parametrize("rank", range(1, 10))
def test_every_axis_of_every_rank(engine, rank):
    """Rank 1 to 9, each axis: the same rows by way of NumPy's own moveaxis."""
    random = np.random.default_rng(rank)
    shape = tuple(random.integers(2, 4, rank))
    logits = random.normal(size=shape).astype(np.float32)
    for axis in range(rank):
        examples = shape[:axis] + shape[axis + 1 :]
        ids = random.integers(0, shape[axis], examples)
        call = LossCall(axis=axis - rank, grad_logits=True)
        result = engine.compute([LossRequest(call, logits, axis, ids, "ids")])[0]
        rows = np.ascontiguousarray(np.moveaxis(logits, axis, -1)).reshape(-1, shape[axis])
        plain = losses.SoftmaxCrossEntropy()
        flat = compute_loss(engine, plain, rows, ids.reshape(-1), "ids")
        assert result.per_example.shape == examples
        assert np.array_equal(result.per_example.reshape(-1), flat.per_example)
        moved = np.moveaxis(result.grad_logits, axis, -1).reshape(rows.shape)
        assert np.array_equal(moved, flat.grad_logits)


def test_rank_one(engine):
    """A single example without any other axis has a scalar loss."""
    result = compute(engine, np.array([2.0, 1.0, 0.5]), np.array(0))
    assert result.per_example.shape == ()
    assert result.per_example == pytest.approx(LOSS[0], rel=1e-15)


def test_one_class(engine):
    """With one class the loss is 0 and so is the gradient."""
    result = compute(engine, np.float32([[3.0], [-7.0]]), np.array([0, 0]))
    assert result.per_example.tolist() == [0, 0]
    assert result.grad_logits.tolist() == [[0], [0]]


@pytest.mark.parametrize(
    ("shape", "axis"), [((0, 3), 1), ((2, 0, 3), 2), ((0, 3, 0), 1), ((0, 5003), 1)]
)
def test_zero_rows(engine, shape, axis):
    """No examples give empty results, and a mean over nothing."""
    examples = tuple(np.delete(shape, axis))
    for labels in (np.zeros(examples, np.int32), np.zeros(shape), np.zeros(1)):
        result = compute(engine, np.zeros(shape), labels, axis=axis)
        assert result.per_example.shape == examples
        assert result.grad_logits.shape == shape
        assert np.isnan(compute(engine, np.zeros(shape), labels, axis=axis, reduction="mean").loss)


def test_larger_than_a_tile_along_other_axes(engine):
    """Tensors cut within an outer index, or by whole outer indices, are right everywhere."""
    random = np.random.default_rng(9)
    limit = tiles.TILE_ELEMENTS // 5
    for shape in [(2, 5, limit + 3), (limit + 3, 5, 1), (limit // 3 + 5, 5, 7), (1, 5, 3 * limit)]:
        logits = random.normal(size=shape).astype(np.float32)
        ids = random.integers(0, 5, (shape[0], shape[2]))
        result = compute(engine, logits, ids, axis=1)
        loss, gradient = loss_and_gradient(logits, ids, axis=1)
        assert_close(result.per_example, loss, 1e-6)
        assert_close(result.grad_logits, gradient, 1e-6, floor=1 / 16)


def test_broadcast_labels_equal_spread_ones(engine):
    """Labels that broadcast give what the spread labels give; their gradient is the sum."""
    random = np.random.default_rng(8)
    logits = random.normal(size=(3, 4, 5))
    for shape in [(5,), (1, 5), (4, 5), (3, 1, 5), (1, 4, 1), (1,), (1, 1, 1)]:
        labels = random.random(shape)
        narrow = compute(engine, logits, labels, axis=2)
        wide = compute(engine, logits, np.ascontiguousarray(np.broadcast_to(labels, (3, 4, 5))))
        assert np.array_equal(narrow.per_example, wide.per_example)
        assert np.array_equal(narrow.grad_logits, wide.grad_logits)
        lead = 3 - len(shape)
        summed = wide.grad_labels.sum(axis=tuple(range(lead)))
        axes = tuple(i for i, n in enumerate(shape) if n == 1 and summed.shape[i] != 1)
        summed = summed.sum(axis=axes, keepdims=True)
        np.testing.assert_allclose(narrow.grad_labels, summed, rtol=1e-13)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_of_results(engine, dtype):
    """Losses are float32, float64 for float64; gradients have the dtype of their tensor."""
    result = compute(engine, LOGITS.astype(dtype), np.eye(3, dtype=np.float32)[:2])
    assert result.per_example.dtype == (np.float64 if dtype == np.float64 else np.float32)
    assert result.grad_logits.dtype == dtype
    assert result.grad_labels.dtype == np.float32


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"])
def test_ids_of_every_integer_dtype(engine, dtype):
    """Ids mean the same in any integer dtype."""
    logits = np.random.default_rng(8).normal(size=(4, 100))
    ids = np.array([0, 99, 50, 7])
    plain = losses.SoftmaxCrossEntropy()
    expected = compute_loss(engine, plain, logits, ids, "ids").per_example
    got = compute_loss(engine, plain, logits, ids.astype(dtype), "ids").per_example
    assert np.array_equal(got, expected)
