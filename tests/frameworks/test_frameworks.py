"""Side by side with PyTorch, optax, TensorFlow and Keras on the CPU; `make test-frameworks`.

Shared options agree to float32 rounding; where the frameworks contradict each other, the option
that stands for the difference reproduces it.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="make test-frameworks installs it")
jax = pytest.importorskip("jax", reason="make test-frameworks installs it")
optax = pytest.importorskip("optax", reason="make test-frameworks installs it")
tf = pytest.importorskip("tensorflow", reason="make test-frameworks installs it")
keras = pytest.importorskip("keras", reason="make test-frameworks installs it")

# These packages warn of their own affairs.
pytestmark = pytest.mark.filterwarnings("ignore")

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(16, 10)).astype(np.float32) * 3
IDS = RANDOM.integers(0, 10, 16)
SOFT = RANDOM.dirichlet(np.ones(10), 16).astype(np.float32)
BINARY = RANDOM.integers(0, 2, (16, 10)).astype(np.float32)
WEIGHTS = RANDOM.random(10).astype(np.float32) + 0.5
PROBABILITIES = RANDOM.dirichlet(np.ones(10), 16).astype(np.float32)


def assert_agree(actual, expected, size=1.0):
    """Equal to float32 rounding: a few operations, each off by up to 2^-24 of `size`."""
    np.testing.assert_allclose(actual, np.asarray(expected), rtol=3e-6, atol=size * 2**-20)


def by_torch(function, array):
    """Value and gradient of a PyTorch function of one tensor."""
    tensor = torch.tensor(array, requires_grad=True)
    value = function(tensor)
    value.sum().backward()
    return value.detach().numpy(), tensor.grad.numpy()


def by_jax(function, array):
    """Value and gradient of a JAX function of one array."""
    return function(array), jax.grad(lambda z: function(z).sum())(array)


def by_tensorflow(function, *arrays):
    """Value and gradients of a TensorFlow function."""
    tensors = [tf.constant(array) for array in arrays]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value = function(*tensors)
    return value.numpy(), *(grad.numpy() for grad in tape.gradient(value, tensors))


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["ids", "distribution"])
def test_torch_cross_entropy(client, reduction, smoothing, weighted, kind):
    """All options of torch.nn.functional.cross_entropy, in any combination."""
    labels, options = SOFT, {"normalizer": "size"}
    if kind == "ids":
        labels = np.where(np.arange(16) % 5 == 0, -100, IDS)
        options = {"normalizer": "weights", "ignore_index": -100}
    weight = WEIGHTS if weighted else None
    value, grad = by_torch(
        lambda z: torch.nn.functional.cross_entropy(
            z,
            torch.tensor(labels),
            weight=None if weight is None else torch.tensor(weight),
            reduction=reduction,
            label_smoothing=smoothing,
        ),
        LOGITS,
    )
    result = client.softmax_cross_entropy(
        LOGITS,
        labels,
        class_weight=weight,
        label_smoothing=smoothing,
        reduction=reduction,
        **options,
    )
    assert_agree(result.loss, value, 16)
    assert_agree(result.grad_logits, grad)


def test_torch_ignores_nan_differently(client):
    """In ignored rows that hold NaN, PyTorch's gradient is NaN and ours is 0."""
    logits, labels = LOGITS.copy(), IDS.copy()
    logits[0], labels[0] = np.nan, -100
    _, grad = by_torch(lambda z: torch.nn.functional.cross_entropy(z, torch.tensor(labels)), logits)
    result = client.softmax_cross_entropy(logits, labels, ignore_index=-100, reduction="mean")
    assert_agree(result.grad_logits[1:], grad[1:])
    assert (result.grad_logits[0] == 0).all()


@pytest.mark.parametrize("weighted", [False, True])
def test_torch_binary(client, weighted):
    """binary_cross_entropy_with_logits with pos_weight, and binary_cross_entropy."""
    weight = WEIGHTS if weighted else None
    value, grad = by_torch(
        lambda z: torch.nn.functional.binary_cross_entropy_with_logits(
            z, torch.tensor(BINARY), pos_weight=None if weight is None else torch.tensor(weight)
        ),
        LOGITS,
    )
    result = client.sigmoid_cross_entropy(LOGITS, BINARY, pos_weight=weight, reduction="mean")
    assert_agree(result.loss, value)
    assert_agree(result.grad_logits, grad, 1 / 160)
    value, grad = by_torch(
        lambda p: torch.nn.functional.binary_cross_entropy(p, torch.tensor(BINARY)), PROBABILITIES
    )
    result = client.binary_cross_entropy(PROBABILITIES, BINARY, reduction="mean")
    assert_agree(result.loss, value)
    np.testing.assert_allclose(result.grad_logits, grad, rtol=1e-5)


def test_torch_kl(client):
    """kl_div with batchmean."""
    value, grad = by_torch(
        lambda z: torch.nn.functional.kl_div(
            torch.log_softmax(z, 1), torch.tensor(SOFT), reduction="batchmean"
        ),
        LOGITS,
    )
    result = client.kl_divergence(LOGITS, SOFT, reduction="mean", normalizer="size")
    assert_agree(result.loss, value)
    assert_agree(result.grad_logits, grad)


def test_optax(client):
    """optax's softmax, integer, sigmoid, focal and KL losses, with gradients."""
    pairs = [
        (lambda z: optax.softmax_cross_entropy(z, SOFT), client.softmax_cross_entropy, SOFT, {}),
        (
            lambda z: optax.softmax_cross_entropy_with_integer_labels(z, IDS),
            client.softmax_cross_entropy,
            IDS,
            {},
        ),
        (
            lambda z: optax.sigmoid_binary_cross_entropy(z, BINARY),
            client.sigmoid_cross_entropy,
            BINARY,
            {},
        ),
        (
            lambda z: optax.sigmoid_focal_loss(z, BINARY, alpha=0.25, gamma=2.0),
            client.focal,
            BINARY,
            {"form": "sigmoid", "alpha": 0.25},
        ),
        (
            lambda z: optax.losses.kl_divergence(jax.nn.log_softmax(z), SOFT),
            client.kl_divergence,
            SOFT,
            {},
        ),
    ]
    for function, method, labels, options in pairs:
        value, grad = by_jax(function, LOGITS)
        result = method(LOGITS, labels, **options)
        assert_agree(result.loss, value, 4)
        assert_agree(result.grad_logits, grad)


def test_optax_gives_nan_for_ids_out_of_range(client):
    """What optax does with ids beyond the classes is our out_of_range="nan"."""
    labels = np.where(np.arange(16) == 3, 99, IDS)
    value = optax.softmax_cross_entropy_with_integer_labels(LOGITS, labels)
    result = client.softmax_cross_entropy(LOGITS, labels, out_of_range="nan")
    assert_agree(result.loss, value, 4)
    assert np.isnan(result.loss[3])


def test_tensorflow(client):
    """tf.nn's softmax, sparse, sigmoid and weighted losses, with gradients to both arguments."""
    labels = SOFT * 2  # TensorFlow's gradient is p - y all the same
    value, to_labels, to_logits = by_tensorflow(
        tf.nn.softmax_cross_entropy_with_logits, labels, LOGITS
    )
    result = client.softmax_cross_entropy(
        LOGITS, labels, label_gradient="tf", gradients=("logits", "labels")
    )
    assert_agree(result.loss, value, 8)
    assert_agree(result.grad_logits, to_logits)
    assert_agree(result.grad_labels, to_labels, 8)
    value, grad = by_tensorflow(
        lambda z: tf.nn.sparse_softmax_cross_entropy_with_logits(IDS, z), LOGITS
    )
    result = client.softmax_cross_entropy(LOGITS, IDS)
    assert_agree(result.loss, value, 8)
    assert_agree(result.grad_logits, grad)
    value, grad = by_tensorflow(
        lambda z: tf.nn.weighted_cross_entropy_with_logits(BINARY, z, 2.5), LOGITS
    )
    result = client.sigmoid_cross_entropy(LOGITS, BINARY, pos_weight=2.5)
    assert_agree(result.loss, value, 8)
    assert_agree(result.grad_logits, grad, 2.5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_keras(client, smoothing):
    """The Keras crossentropies, from logits and from probabilities."""
    pairs = [
        (
            keras.losses.categorical_crossentropy(
                SOFT, LOGITS, from_logits=True, label_smoothing=smoothing
            ),
            client.softmax_cross_entropy(LOGITS, SOFT, label_smoothing=smoothing).loss,
        ),
        (
            keras.losses.categorical_crossentropy(SOFT, PROBABILITIES, label_smoothing=smoothing),
            client.categorical_cross_entropy(PROBABILITIES, SOFT, label_smoothing=smoothing).loss,
        ),
        (
            keras.losses.sparse_categorical_crossentropy(IDS, PROBABILITIES * 3),
            client.categorical_cross_entropy(PROBABILITIES * 3, IDS, clip_order="clip_first").loss,
        ),
        (
            keras.losses.binary_crossentropy(BINARY, PROBABILITIES, label_smoothing=smoothing),
            client.binary_cross_entropy(PROBABILITIES, BINARY, label_smoothing=smoothing).loss.mean(
                axis=-1
            ),
        ),
    ]
    for value, ours in pairs:
        assert_agree(ours, value, 8)
