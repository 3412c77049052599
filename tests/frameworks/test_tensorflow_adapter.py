"""`losswire.tensorflow` beside TensorFlow: the same arguments, results and gradients."""

import inspect
import socket

import numpy as np
import pytest

import losswire

tf = pytest.importorskip("tensorflow", reason="make test-frameworks installs it")

# TensorFlow warns of its own affairs.
pytestmark = pytest.mark.filterwarnings("ignore")

ADAPTER = "losswire.tensorflow"

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(4, 5, 6)).astype(np.float32) * 3
SOFT = RANDOM.dirichlet(np.ones(6), (4, 5)).astype(np.float32)
IDS = RANDOM.integers(0, 6, (4, 5))
BINARY = RANDOM.random((4, 5, 6)).astype(np.float32)
WEIGHT = np.linspace(0.5, 3, 6, dtype=np.float32)

SOFTMAX, SPARSE = "softmax_cross_entropy_with_logits", "sparse_softmax_cross_entropy_with_logits"
SIGMOID, WEIGHTED = "sigmoid_cross_entropy_with_logits", "weighted_cross_entropy_with_logits"

CASES = {
    "softmax": (SOFTMAX, {"labels": SOFT, "logits": LOGITS}),
    "axis 1": (SOFTMAX, {"labels": BINARY, "logits": LOGITS, "axis": 1}),
    "labels that do not sum to 1": (SOFTMAX, {"labels": BINARY, "logits": LOGITS}),
    "labels of float64": (SOFTMAX, {"labels": SOFT.astype(np.float64), "logits": LOGITS}),
    "float64": (SOFTMAX, {"labels": SOFT, "logits": LOGITS.astype(np.float64)}),
    "ids": (SPARSE, {"labels": IDS, "logits": LOGITS}),
    "one id": (SPARSE, {"labels": IDS[0, 0], "logits": LOGITS[0, 0]}),
    "no examples": (SPARSE, {"labels": IDS[:0], "logits": LOGITS[:0]}),
    "sigmoid": (SIGMOID, {"labels": BINARY, "logits": LOGITS}),
    "a scalar": (SIGMOID, {"labels": BINARY[0, 0, 0], "logits": LOGITS[0, 0, 0]}),
    "weighted": (WEIGHTED, {"labels": BINARY, "logits": LOGITS, "pos_weight": WEIGHT}),
    "weighted by a number": (WEIGHTED, {"labels": BINARY, "logits": LOGITS, "pos_weight": 2.5}),
}


def outcome(function, labels, logits, **options):
    """Losses, and the gradients of a sum in which no two losses count the same."""
    labels, logits = tf.constant(labels), tf.constant(logits)
    sources = [logits] if labels.dtype.is_integer else [logits, labels]
    with tf.GradientTape() as tape:
        tape.watch(sources)
        losses = function(labels=labels, logits=logits, **options)
        flat = tf.cast(tf.reshape(losses, [-1]), tf.float64)
        total = tf.reduce_sum(flat * tf.linspace(tf.constant(0.5, tf.float64), 2.0, tf.size(flat)))
    return losses, *tape.gradient(total, sources)


def assert_same(actual, expected, rounding=2**-24):
    """Same shapes and dtypes, and numbers within 32 roundings of the largest."""
    for one, other in zip(actual, expected, strict=True):
        if other is None:
            assert one is None
            continue
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        wide = np.asarray(tf.cast(other, tf.float64))
        bound = 32 * rounding
        np.testing.assert_allclose(
            tf.cast(one, tf.float64), wide, rtol=bound, atol=bound * np.abs(wide).max(initial=1)
        )


@pytest.mark.parametrize("case", CASES)
def test_as_tensorflow(ours, case):
    """Losses and gradients to both arguments, eagerly, in tf.function, and with a tape outside."""
    name, options = CASES[case]
    expected = outcome(getattr(tf.nn, name), **options)
    function = getattr(ours, name)
    assert_same(outcome(function, **options), expected)
    traced = tf.function(lambda: outcome(function, **options))
    assert_same(traced(), expected)
    assert_same(outcome(tf.function(function), **options), expected)


def test_labels_are_broadcast(ours):
    """With their gradient; TensorFlow's own backward fails there."""

    def broadcast(labels, logits):
        labels = tf.broadcast_to(labels, logits.shape)
        return tf.nn.softmax_cross_entropy_with_logits(labels, logits)

    expected = outcome(broadcast, SOFT[0, :1], LOGITS)
    assert_same(outcome(ours.softmax_cross_entropy_with_logits, SOFT[0, :1], LOGITS), expected)


@pytest.mark.parametrize("dtype", [tf.float16, tf.bfloat16])
@pytest.mark.parametrize("case", ["softmax", "ids", "sigmoid"])
def test_halves(ours, dtype, case):
    """Losses and gradients have the logits' dtype."""
    name, options = CASES[case]
    tensors = {key: tf.cast(value, dtype) for key, value in options.items()}
    if case == "ids":
        tensors["labels"] = tf.constant(IDS)
    rounding = 2**-11 if dtype == tf.float16 else 2**-8
    expected = outcome(getattr(tf.nn, name), **tensors)
    assert_same(outcome(getattr(ours, name), **tensors), expected, rounding)
    traced = tf.function(getattr(ours, name))
    assert_same(outcome(traced, **tensors), expected, rounding)


@pytest.mark.parametrize("name", [SOFTMAX, SPARSE, SIGMOID, WEIGHTED, "softmax", "log_softmax"])
def test_signatures(ours, name):
    """TensorFlow's names in its order with its defaults, and `client`; version 1 with its guard."""
    for theirs, mine in ((tf.nn, ours), (tf.compat.v1.nn, ours.v1)):
        parameters = dict(inspect.signature(getattr(mine, name)).parameters)
        assert parameters.pop("client").kind is inspect.Parameter.KEYWORD_ONLY
        parameters.pop("_sentinel", None)
        expected = inspect.signature(getattr(theirs, name)).parameters.values()
        assert [(p.name, p.default) for p in parameters.values()] == [
            (p.name, p.default) for p in expected
        ]


def test_version_1(ours):
    """No gradient to labels, old names of arguments, and nothing by position."""
    expected = outcome(tf.compat.v1.nn.softmax_cross_entropy_with_logits, SOFT, LOGITS)
    assert expected[2] is None
    assert_same(outcome(ours.v1.softmax_cross_entropy_with_logits, SOFT, LOGITS), expected)
    expected = outcome(tf.compat.v1.nn.softmax_cross_entropy_with_logits, BINARY, LOGITS, dim=1)
    assert_same(outcome(ours.v1.softmax_cross_entropy_with_logits, BINARY, LOGITS, dim=1), expected)
    expected = tf.nn.sparse_softmax_cross_entropy_with_logits(IDS, LOGITS)
    assert_same(
        [ours.v1.sparse_softmax_cross_entropy_with_logits(labels=IDS, logits=LOGITS)], [expected]
    )
    expected = tf.nn.weighted_cross_entropy_with_logits(BINARY, LOGITS, 2.0)
    assert_same(
        [ours.v1.weighted_cross_entropy_with_logits(targets=BINARY, logits=LOGITS, pos_weight=2.0)],
        [expected],
    )
    second = SOFTMAX + "_v2"
    expected = outcome(getattr(tf.compat.v1.nn, second), SOFT, LOGITS)
    assert_same(outcome(getattr(ours.v1, second), SOFT, LOGITS), expected)
    expected = outcome(getattr(tf.compat.v1.nn, second), BINARY, LOGITS, dim=1)
    assert_same(outcome(getattr(ours.v1, second), BINARY, LOGITS, dim=1), expected)
    for name in (SOFTMAX, SPARSE, SIGMOID):
        with pytest.raises(ValueError, match="by name, received positions"):
            getattr(ours.v1, name)(SOFT, LOGITS)


class Spy(losswire.Client):
    """Notes which gradients are asked for, and what the labels are."""

    def __init__(self, target):
        super().__init__(target)
        self.asked = []

    def softmax_cross_entropy(self, logits, labels, **options):
        self.asked.append((options["gradients"], labels.dtype.kind))
        return super().softmax_cross_entropy(logits, labels, **options)


def test_calls(ours, server):
    """One call with the gradient to the logits; another where one to the labels is wanted."""
    logits, soft, ids = (tf.constant(array) for array in (LOGITS, SOFT, IDS))
    with Spy(server.target) as spy:
        functions = (
            lambda: ours.sparse_softmax_cross_entropy_with_logits(ids, logits, client=spy),
            lambda: ours.softmax_cross_entropy_with_logits(soft, logits, client=spy),
        )
        for function in functions:
            with tf.GradientTape() as tape:
                tape.watch(logits)
                losses = function()
            tape.gradient(losses, logits)
        with tf.GradientTape() as tape:
            tape.watch([logits, soft])
            losses = functions[1]()
        tape.gradient(losses, [logits, soft])
    by_logits, by_labels = ("logits",), ("labels",)
    assert spy.asked == [(by_logits, "i"), (by_logits, "f"), (by_logits, "f"), (by_labels, "f")]


def test_graphs_know_their_shapes(ours):
    """As far as they are known when a function is traced."""
    for name, labels, expected in ((SOFTMAX, SOFT, [None, 5]), (SIGMOID, BINARY, [None, 5, 6])):
        spec = tf.TensorSpec([None, 5, 6], tf.float32)
        function = getattr(ours, name)
        traced = tf.function(lambda y, z, f=function: f(y, z)).get_concrete_function(spec, spec)
        assert traced.output_shapes.as_list() == expected
        actual = traced(tf.constant(labels), tf.constant(LOGITS))
        assert_same([actual], [getattr(tf.nn, name)(labels, LOGITS)])


def test_second_derivatives_are_refused(ours):
    """Not None, and not zero."""
    logits = tf.constant(LOGITS)
    for name, labels in ((SOFTMAX, SOFT), (SIGMOID, BINARY)):
        with tf.GradientTape() as outer:
            outer.watch(logits)
            with tf.GradientTape() as inner:
                inner.watch(logits)
                loss = tf.reduce_sum(getattr(ours, name)(labels, logits))
            grad = inner.gradient(loss, logits)
        with pytest.raises(NotImplementedError, match="no second derivatives"):
            outer.gradient(grad, logits)


@pytest.mark.parametrize(
    ("name", "labels", "logits"),
    [
        (SOFTMAX, None, LOGITS),
        (SOFTMAX, SOFT, None),
        (SOFTMAX, SOFT[:3], LOGITS),
        (SOFTMAX, SOFT, IDS),
        (SPARSE, IDS[:3], LOGITS),
        (SPARSE, IDS[..., None], LOGITS),
        (SPARSE, SOFT[..., 0], LOGITS),
        (SIGMOID, BINARY[:3], LOGITS),
        (SIGMOID, BINARY > 1, LOGITS),
    ],
)
def test_errors(ours, name, labels, logits):
    """Mistakes are InvalidInput, a ValueError."""
    with pytest.raises(losswire.InvalidInput, match=r": expected .*, received"):
        getattr(ours, name)(labels, logits)


def test_ids_out_of_range(ours):
    """Both errors eagerly; TensorFlow's in a graph, with losswire's words."""
    words = r"labels: expected class ids in \[0, 6\), received -1 at index \(2, 1\)"
    ids = IDS.copy()
    ids[2, 1] = -1
    for kind in (losswire.InvalidInput, tf.errors.InvalidArgumentError):
        with pytest.raises(kind, match=words):
            ours.sparse_softmax_cross_entropy_with_logits(ids, LOGITS)
    with pytest.raises(tf.errors.InvalidArgumentError, match=words):
        tf.function(ours.sparse_softmax_cross_entropy_with_logits)(ids, LOGITS)


def test_a_server_that_is_away(ours):
    """The client's own error, and in a graph TensorFlow's with its words; no hang."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{taken.getsockname()[1]}"
        with losswire.Client(target, timeout=20) as client:

            def loss():
                return ours.softmax_cross_entropy_with_logits(SOFT, LOGITS, client=client)

            with pytest.raises(losswire.ServerUnavailable, match=target):
                loss()
            with pytest.raises(tf.errors.OpError, match="ServerUnavailable"):
                tf.function(loss)()
