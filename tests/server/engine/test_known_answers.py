"""Answers known beforehand: those of TensorFlow and Keras, and those of formulas written out."""

import numpy as np
import pytest

from losswire_proto import losses
from losswire_proto.losses import LossCall, SoftmaxCrossEntropy
from losswire_server.requests import LossRequest
from numpy_engines import LOGITS, LOSS, compute, compute_loss, of_two_threads

GRAD = [
    [-0.37146828078823757, 0.23122389762214904, 0.14024438316608848],
    [0.506480391055654, -0.6928041142815016, 0.1863237232258476],
]
GRAD_LABELS = [
    [0.4643687841079449, 1.464368784107945, 1.964368784107945],
    [0.6802696706417346, 1.1802696706417346, 1.6802696706417346],
]

engine = pytest.fixture(of_two_threads, scope="module")


@pytest.mark.parametrize("labels", [np.array([0, 1]), np.eye(3)[:2]], ids=["ids", "one-hot"])
def test_worked_example(engine, labels):
    """The worked example of TensorFlow 2.21, to float64 rounding."""
    result = compute(engine, LOGITS, labels)
    np.testing.assert_allclose(result.per_example, LOSS, rtol=1e-15)
    np.testing.assert_allclose(result.grad_logits, GRAD, rtol=1e-14)
    if result.grad_labels is not None:
        np.testing.assert_allclose(result.grad_labels, GRAD_LABELS, rtol=1e-15)


def test_worked_example_along_axis_1(engine):
    """Class axis in the middle, rows that sum to 1 and to less: TensorFlow's numbers."""
    logits = (np.arange(12) / 3).reshape(2, 3, 2)
    labels = np.array([[[0.2, 0.1], [0.3, 0.8], [0.5, 0.1]], [[1, 0], [0, 0.5], [0, 0.5]]])
    result = compute(engine, logits, labels, axis=1)
    expected = [[1.0416012389630556, 1.2416012389630557], [1.9082679056297223, 0.9082679056297225]]
    np.testing.assert_allclose(result.per_example, expected, rtol=1e-15)


def test_known_answers(engine):
    """The other rows of SEMANTICS' table, TensorFlow 2.21 and Keras 3.15 in float64."""
    one_hot = np.eye(3)[:2]
    expected = [[0.1269280110429725, 1.3132616875182228, 0.9740769841801067]]
    expected += [[1.3132616875182228, 0.4740769841801067, 0.6931471805599453]]
    sigmoid = losses.SigmoidCrossEntropy()
    result = compute_loss(engine, sigmoid, LOGITS, one_hot, "elements")
    np.testing.assert_allclose(result.per_example, expected, rtol=1e-15)
    weighted = compute_loss(
        engine, sigmoid, LOGITS, one_hot, "elements", pos_weight=np.float64([2.5])
    )
    expected = [[0.3173200276074312, 1.3132616875182228, 0.9740769841801067]]
    expected += [[1.3132616875182228, 1.1851924604502666, 0.6931471805599453]]
    np.testing.assert_allclose(weighted.per_example, expected, rtol=1e-15)
    for p in ([0.05, 0.9, 0.05], [1.0, 18.0, 1.0]):
        for label, reading in ((np.float64([0, 1, 0]), "distribution"), (np.array(1), "ids")):
            result = compute_loss(
                engine, losses.CategoricalCrossEntropy(), np.float64(p), label, reading
            )
            np.testing.assert_allclose(result.per_example, 0.10536051565782628, rtol=1e-15)
    result = compute_loss(engine, losses.Softmax(), np.float64([2, 1, 0.1]), None, "none")
    expected = [0.6590011388859679, 0.24243297070471392, 0.09856589040931818]
    np.testing.assert_allclose(result.output, expected, rtol=1e-15)


@pytest.mark.parametrize(
    ("mode", "gradient"),
    [
        ("tf", [-1.9099694268296195, 0.24472847105479764, 0.6652409557748218]),
        ("exact", [-1.819938853659239, 0.4894569421095953, 1.3304819115496436]),
    ],
)
def test_labels_that_do_not_sum_to_one(engine, mode, gradient):
    """A label row that sums to 2: the derivative, or what TensorFlow returns."""
    result = compute(
        engine,
        np.array([[1.0, 2.0, 3.0]]),
        np.array([[2.0, 0.0, 0.0]]),
        loss=SoftmaxCrossEntropy(label_gradient=mode),
    )
    np.testing.assert_allclose(result.per_example, [4.815211928888761], rtol=1e-15)
    np.testing.assert_allclose(result.grad_logits, [gradient], rtol=1e-14)


def test_label_gradients_with_options(engine):
    """d/dy = w * (1-a) * (lse - z), whatever the temperature does to dz."""
    logits, labels = np.float64([[1, 2, 3]]), np.float64([[0.2, 0.3, 0.5]])
    weights = np.float64([1, 2, 0.5])
    loss = losses.SoftmaxCrossEntropy(label_smoothing=0.1, temperature=2.0)
    call = LossCall(loss, grad_logits=True, grad_labels=True)
    request = LossRequest(call, logits, 1, labels, "distribution", class_weight=weights)
    z = logits / 2
    expected = weights * 0.9 * (np.log(np.exp(z).sum()) - z)
    np.testing.assert_allclose(engine.compute([request])[0].grad_labels, expected, rtol=1e-14)


def test_sigmoid_at_zero(engine):
    """At z = 0 the gradient is exactly 1/2 - y."""
    labels = np.float32([0, 1, 0.25, 0.5])
    result = compute_loss(
        engine, losses.SigmoidCrossEntropy(), np.zeros(4, np.float32), labels, "elements"
    )
    assert result.grad_logits.tolist() == (np.float32(0.5) - labels).tolist()


def test_extras(engine):
    """Logsumexp, argmax and entropy of the logits after softcap and temperature."""
    loss = losses.SoftmaxCrossEntropy(
        softcap=2.0, temperature=0.5, extras=("logsumexp", "argmax", "entropy")
    )
    logits = np.float64([[3, -1, 3, 0.5], [0, 0, 0, 0], [-np.inf, 1, 0, -np.inf]])
    result = compute_loss(engine, loss, logits, np.array([0, 1, 1]), "ids")
    z = 2 * np.tanh(logits / 2) / 0.5
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(result.extras["logsumexp"], np.log(np.exp(z).sum(axis=1)))
    np.testing.assert_allclose(result.extras["entropy"], -(p * np.log(p)).sum(axis=1))
    assert result.extras["argmax"].tolist() == [0, 0, 1]
    plain = losses.SoftmaxCrossEntropy(extras=("entropy",))
    masked = compute_loss(engine, plain, np.float32([[0, -np.inf, 0]]), np.array([0]), "ids")
    np.testing.assert_allclose(masked.extras["entropy"], [np.log(2)], rtol=1e-7)


@pytest.mark.parametrize(
    ("time", "batch", "shape"),
    [(True, True, ()), (True, False, (2,)), (False, True, (3,)), (False, False, (2, 3))],
)
def test_sequence_loss(engine, time, batch, shape):
    """Averages over time, batch, both or neither, and the gradient of each output."""
    random = np.random.default_rng(3)
    logits, ids = random.normal(size=(2, 3, 4)), random.integers(0, 4, (2, 3))
    weights = np.float64([[1, 1, 0], [1, 0, 0]])
    loss = losses.SequenceLoss(average_across_timesteps=time, average_across_batch=batch)
    result = compute_loss(engine, loss, logits, ids, "ids", sample_weight=weights)
    each = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, ids[..., None], -1)[..., 0]
    axes = tuple(axis for axis, wanted in enumerate((batch, time)) if wanted)
    total, divisor = each * weights, np.ones((2, 3))
    if axes:
        total = total.sum(axes)
        divisor = np.broadcast_to(weights.sum(axes, keepdims=True) + 1e-12, (2, 3))
    expected = total / (weights.sum(axes) + 1e-12) if axes else total
    got = result.per_example if result.loss is None else result.loss
    assert got.shape == shape
    np.testing.assert_allclose(got, expected, rtol=1e-12)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    gradient = (p - np.eye(4)[ids]) * (weights / divisor)[..., None]
    np.testing.assert_allclose(result.grad_logits, gradient, rtol=1e-11, atol=1e-15)
