"""Softmax cross-entropy in all its shapes against long double and finite differences."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from losswire_proto.losses import SoftmaxCrossEntropy
from numpy_engines import compute, of_two_threads
from reference import DTYPES, GRAD_TOLERANCE, LOSS_TOLERANCE, assert_close, loss_and_gradient

engine = pytest.fixture(of_two_threads, scope="module")

shapes = st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple)


@st.composite
def problems(draw):
    """Logits of any shape, axis and dtype, with ids or with distributions that may broadcast."""
    shape = draw(shapes)
    axis = draw(st.integers(-len(shape), len(shape) - 1))
    dtype = draw(st.sampled_from(DTYPES))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    logits = (random.normal(size=shape) * draw(st.sampled_from([0.1, 1, 5]))).astype(dtype)
    if draw(st.booleans()):
        examples = tuple(np.delete(shape, axis))
        ids = random.integers(0, shape[axis], examples)
        return logits, ids.astype(draw(st.sampled_from(["i1", "u1", "i4", "u8", "i8"]))), axis
    label_shape = [n if draw(st.booleans()) else 1 for n in shape][draw(st.integers(0, 1)) :]
    label_dtype = draw(st.sampled_from(DTYPES))
    return logits, random.random(label_shape).astype(label_dtype), axis


@settings(max_examples=400, deadline=None)
@given(problem=problems())
def test_agrees_with_long_double(engine, problem):
    """Loss and gradient of any shape, axis, dtype and labels agree with long double.

    Losses to the promised relative error. A gradient p * Σq - q is a difference, so its error is
    measured against the largest of it, of Σq / 16, and of an eighth of what is subtracted and what
    from: in float32 those are off by two roundings then.
    """
    logits, labels, axis = problem
    result = compute(engine, logits, labels, axis=axis)
    # Labels are converted to the dtype of the computation; that is not an error of it.
    wide = labels if labels.dtype.kind in "iu" else labels.astype(result.per_example.dtype)
    loss, gradient = loss_and_gradient(logits, wide, axis=axis)
    name = logits.dtype.name
    assert_close(result.per_example, loss, LOSS_TOLERANCE[name])
    floor = np.maximum(mass_of(logits, labels, axis) / 16, terms(gradient, wide) / 8)
    assert_close(result.grad_logits, gradient, GRAD_TOLERANCE[name], floor=floor)


def mass_of(logits, labels, axis):
    """The most that Σq can be."""
    return 1.0 if labels.dtype.kind in "iu" else logits.shape[axis]


def terms(gradient, labels):
    """Of distributions p * Σq + q, whose difference the gradient is."""
    return 0.0 if labels.dtype.kind in "iu" else gradient + 2 * labels


@settings(max_examples=200, deadline=None)
@given(problem=problems(), data=st.data())
def test_reductions_agree_with_long_double(engine, problem, data):
    """Any reduction, normalizer and weights are the weighted sum and quotient of the losses."""
    logits, labels, axis = problem
    reduction = data.draw(st.sampled_from(["none", "sum", "mean"]))
    normalizer = data.draw(st.sampled_from(["valid", "weights", "size", 3.5]))
    examples = tuple(np.delete(logits.shape, axis))
    weight = np.random.default_rng(data.draw(st.integers(0, 99))).random(examples) + 0.5
    loss, counts = SoftmaxCrossEntropy(), np.ones(examples)
    if labels.dtype.kind in "iu":
        ignored = data.draw(st.integers(-1, logits.shape[axis]))
        loss, counts = SoftmaxCrossEntropy(ignore_index=ignored), (labels != ignored) * 1.0
    options = {"axis": axis, "reduction": reduction, "normalizer": normalizer, "loss": loss}
    result = compute(engine, logits, labels, sample_weight=weight, **options)

    wide = labels if labels.dtype.kind in "iu" else labels.astype(result.per_example.dtype)
    losses, gradient = loss_and_gradient(logits, wide, axis=axis)
    each = losses * weight * counts
    divisors = {"valid": counts.sum(), "weights": (weight * counts).sum(), "size": counts.size}
    divisor = divisors.get(normalizer, normalizer) if reduction == "mean" else 1.0
    name = logits.dtype.name
    assert_close(result.per_example, each, LOSS_TOLERANCE[name])
    if divisor == 0:
        assert np.isnan(result.loss)
        return
    scale = weight * counts / divisor
    if reduction != "none":
        # Errors of the terms may add up; their sum is of positive numbers.
        assert_close(result.loss, each.sum() / divisor, 2 * LOSS_TOLERANCE[name])
    by_example = np.expand_dims(scale, axis)
    expected = gradient * by_example
    # float16 gradients below its smallest normal number, 2^-14, are rounded to steps of 2^-24.
    least = 2**-13 if name == "float16" else 0.0
    floor = max(mass_of(logits, labels, axis) / 16 * scale.max(), least)
    floor = np.maximum(floor, terms(gradient, wide) * by_example / 8)
    assert_close(result.grad_logits, expected, GRAD_TOLERANCE[name], floor=floor)


@pytest.mark.parametrize("labels", [np.array([[1, 0], [2, 2]]), np.float64([0.2, 0.5, 0.3])])
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_gradients_are_the_derivatives(engine, labels, reduction):
    """Central differences in float64 of the loss as reduced, for logits and broadcast labels."""
    random = np.random.default_rng(1)
    logits = random.normal(size=(2, 2, 3))
    weight = np.array([[0.5, 2.0], [1.0, 3.0]])

    def total(z, y):
        result = compute(
            engine, z, y, sample_weight=weight, reduction=reduction, normalizer="weights"
        )
        return float(result.per_example.sum() if result.loss is None else result.loss), result

    _, result = total(logits, labels)
    step = 1e-6
    for index in np.ndindex(logits.shape):
        up, down = logits.copy(), logits.copy()
        up[index] += step
        down[index] -= step
        slope = (total(up, labels)[0] - total(down, labels)[0]) / (2 * step)
        # Central differences: truncation ~ step^2, rounding ~ 1e-16 / step.
        assert result.grad_logits[index] == pytest.approx(slope, abs=1e-8)
    if labels.dtype.kind == "f":
        for c in range(3):
            up, down = labels.copy(), labels.copy()
            up[c] += step
            down[c] -= step
            slope = (total(logits, up)[0] - total(logits, down)[0]) / (2 * step)
            assert result.grad_labels[c] == pytest.approx(slope, abs=1e-8)
