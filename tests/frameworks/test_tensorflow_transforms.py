"""Softmax, its logarithm and the loss of sequences in `losswire.tensorflow`, beside TensorFlow."""

import inspect

import numpy as np
import pytest

import losswire

tf = pytest.importorskip("tensorflow", reason="make test-frameworks installs it")

# TensorFlow warns of its own affairs.
pytestmark = pytest.mark.filterwarnings("ignore")

ADAPTER = "losswire.tensorflow"

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(4, 5, 6)).astype(np.float32) * 3
IDS = RANDOM.integers(0, 6, (4, 5))
WEIGHTS = RANDOM.random((4, 5)).astype(np.float32)
WEIGHTS[:, 3:] = 0  # the last time steps are padding everywhere
WEIGHTS[2] = 0


def outcome(function, *arrays):
    """Values, and the gradients of a sum in which no two values count the same."""
    tensors = [tf.constant(array) for array in arrays]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        values = function(*tensors)
        flat = tf.cast(tf.reshape(values, [-1]), tf.float64)
        total = tf.reduce_sum(flat * tf.linspace(tf.constant(0.5, tf.float64), 2.0, tf.size(flat)))
    return values, *tape.gradient(total, tensors)


def assert_same(actual, expected, rounding=2**-24):
    """Same shapes and dtypes, and numbers within 32 roundings of the largest."""
    for one, other in zip(actual, expected, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        wide = np.asarray(tf.cast(other, tf.float64))
        bound = 32 * rounding
        size = np.abs(wide).max(initial=1)
        np.testing.assert_allclose(tf.cast(one, tf.float64), wide, rtol=bound, atol=bound * size)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize(
    ("dtype", "rounding"),
    [("float16", 2**-11), ("bfloat16", 2**-8), ("float32", 2**-24), ("float64", 2**-53)],
)
@pytest.mark.parametrize("axis", [None, 1])
def test_transforms(ours, name, dtype, rounding, axis):
    """Values and gradients, eagerly and in tf.function, in both versions."""
    logits = tf.cast(LOGITS, dtype)
    expected = outcome(lambda z: getattr(tf.nn, name)(z, axis), logits)
    mine = getattr(ours, name)
    assert_same(outcome(lambda z: mine(z, axis), logits), expected, rounding)
    assert_same(outcome(tf.function(lambda z: mine(z, axis)), logits), expected, rounding)
    old = getattr(ours.v1, name)
    assert_same(outcome(lambda z: old(z, dim=axis), logits), expected, rounding)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_second_derivatives_are_refused(ours, name):
    """Not None, and not zero."""
    logits = tf.constant(LOGITS)
    with tf.GradientTape() as outer:
        outer.watch(logits)
        _, grad = outcome(getattr(ours, name), logits)
    with pytest.raises(NotImplementedError, match="no second derivatives"):
        outer.gradient(grad, logits)


def test_errors(ours):
    """Mistakes are InvalidInput, a ValueError."""
    for call in (
        lambda: ours.softmax(IDS),
        lambda: ours.log_softmax(LOGITS, 3),
        lambda: ours.v1.softmax(LOGITS, axis=1, dim=1),
        lambda: ours.sequence_loss(LOGITS[0], IDS, WEIGHTS),
        lambda: ours.sequence_loss(LOGITS, IDS[0], WEIGHTS),
        lambda: ours.sequence_loss(LOGITS, IDS, WEIGHTS[0]),
    ):
        with pytest.raises(losswire.InvalidInput, match=r": expected .*, received"):
            call()


def in_words_of_version_1(logits, weights, timesteps, batch):
    """The formula of tf.contrib.seq2seq.sequence_loss, which TensorFlow 2 does not have."""
    loss = weights * tf.nn.sparse_softmax_cross_entropy_with_logits(IDS, logits)
    if timesteps and batch:
        return tf.reduce_sum(loss) / (tf.reduce_sum(weights) + 1e-12)
    if timesteps:
        return tf.reduce_sum(loss, 1) / (tf.reduce_sum(weights, 1) + 1e-12)
    if batch:
        return tf.reduce_sum(loss, 0) / (tf.reduce_sum(weights, 0) + 1e-12)
    return loss


@pytest.mark.parametrize("timesteps", [True, False])
@pytest.mark.parametrize("batch", [True, False])
def test_sequence_loss(ours, client, timesteps, batch):
    """Every average, with gradients to logits and weights; sequences of padding alone have 0."""

    def mine(logits, weights, function=None):
        return ours.sequence_loss(logits, IDS, weights, timesteps, batch, function)

    expected = outcome(lambda z, w: in_words_of_version_1(z, w, timesteps, batch), LOGITS, WEIGHTS)
    actual = outcome(mine, LOGITS, WEIGHTS)
    assert_same(actual[:2], expected[:2])
    # By weights that sum to 0 the derivative is l / 1e-12, and a size that all share says nothing.
    np.testing.assert_allclose(actual[2], expected[2], rtol=1e-5, atol=1e-5)
    assert_same(outcome(tf.function(mine), LOGITS, WEIGHTS)[:2], expected[:2])
    other = outcome(
        lambda z, w: mine(z, w, tf.nn.sparse_softmax_cross_entropy_with_logits), *(LOGITS, WEIGHTS)
    )
    assert_same(other[:2], expected[:2])
    served = client.sequence_loss(
        LOGITS,
        IDS,
        WEIGHTS,
        average_across_timesteps=timesteps,
        average_across_batch=batch,
    )
    assert_same([actual[0]], [tf.constant(served.loss)])


def test_names_of_sequence_loss(ours):
    """Those of tf.contrib.seq2seq.sequence_loss in its order, and `client`."""
    parameters = inspect.signature(ours.sequence_loss).parameters
    assert [(p.name, p.default) for p in parameters.values()][:-1] == [
        ("logits", inspect.Parameter.empty),
        ("targets", inspect.Parameter.empty),
        ("weights", inspect.Parameter.empty),
        ("average_across_timesteps", True),
        ("average_across_batch", True),
        ("softmax_loss_function", None),
        ("name", None),
    ]
    assert parameters["client"].kind is inspect.Parameter.KEYWORD_ONLY


def test_one_hot_labels(ours):
    """Made by the adapter's one_hot, they have the losses of the ids."""
    labels = ours.one_hot(IDS, 6)
    expected = ours.sparse_softmax_cross_entropy_with_logits(IDS, LOGITS)
    assert_same([ours.softmax_cross_entropy_with_logits(labels, LOGITS)], [expected])
