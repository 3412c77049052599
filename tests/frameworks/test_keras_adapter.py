"""`losswire.keras` beside Keras: the same arguments, results and gradients.

On the backend that `KERAS_BACKEND` names; `test_keras_backends.py` runs this on the others.
"""

import inspect

import numpy as np
import pytest

import losswire

keras = pytest.importorskip("keras", reason="make test-frameworks installs it")
from frameworks.keras_gradients import compiled, value_and_gradient  # noqa: E402 -- needs Keras

# These packages warn of their own affairs.
pytestmark = pytest.mark.filterwarnings("ignore")

ADAPTER = "losswire.keras"

BACKEND = keras.config.backend()

RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(size=(6, 5, 7)).astype(np.float32) * 3
PROBABILITIES = RANDOM.dirichlet(np.ones(7), (6, 5)).astype(np.float32)
SOFT = RANDOM.dirichlet(np.ones(7), (6, 5)).astype(np.float32)
IDS = RANDOM.integers(0, 7, (6, 5))
BINARY = RANDOM.integers(0, 2, (6, 5, 7))

CATEGORICAL, SPARSE = "categorical_crossentropy", "sparse_categorical_crossentropy"
BINARY_NAME = "binary_crossentropy"
CLASSES = {
    CATEGORICAL: "CategoricalCrossentropy",
    SPARSE: "SparseCategoricalCrossentropy",
    BINARY_NAME: "BinaryCrossentropy",
}
CASES = {
    "categorical": (CATEGORICAL, SOFT, {}),
    "categorical, smooth": (CATEGORICAL, SOFT, {"label_smoothing": 0.2}),
    "categorical, sums of 2": (CATEGORICAL, SOFT * 2, {}),
    "categorical, axis 1": (CATEGORICAL, BINARY, {"axis": 1}),
    "sparse": (SPARSE, IDS, {}),
    "sparse, ignored": (SPARSE, IDS, {"ignore_class": 3}),
    "sparse, a column": (SPARSE, IDS[..., None], {}),
    "sparse, floats": (SPARSE, IDS.astype(np.float32), {}),
    "sparse, not normalized": (SPARSE, IDS, {"scale": 3.0}),
    "binary": (BINARY_NAME, BINARY, {}),
    "binary, smooth": (BINARY_NAME, BINARY, {"label_smoothing": 0.2}),
    "binary, axis 1": (BINARY_NAME, BINARY, {"axis": 1}),
}


def outcome(function, y_true, y_pred, *more, run=value_and_gradient, **options):
    """Losses, and the gradient of a sum in which no two losses count the same."""

    def weighted(y_pred):
        losses = function(y_true, y_pred, *more, **options)
        flat = keras.ops.reshape(losses, [-1])
        weights = keras.ops.linspace(0.5, 2.0, flat.shape[0], dtype="float32")
        return keras.ops.sum(flat * weights), losses

    return run(weighted, y_pred)


def assert_same(actual, expected):
    """Same shapes and dtypes, and numbers within 64 roundings of the largest.

    Keras takes the logarithm of clipped probabilities and a softmax of that, each rounded.
    """
    for one, other in zip(actual, expected, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        bound = 64 * 2**-24
        size = np.abs(other).max(initial=1)
        np.testing.assert_allclose(one, other, rtol=bound, atol=bound * size)


@pytest.mark.parametrize("from_logits", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_functions(ours, case, from_logits):
    """Losses and gradients, as they are and compiled."""
    name, y_true, options = CASES[case]
    scale = options.get("scale", 1.0)  # of probabilities, which Keras clips then
    arguments = (y_true, LOGITS if from_logits else PROBABILITIES * scale)
    options = {key: value for key, value in options.items() if key != "scale"}
    options["from_logits"] = from_logits
    expected = outcome(getattr(keras.losses, name), *arguments, **options)
    function = getattr(ours, name)
    assert_same(outcome(function, *arguments, **options), expected)
    assert_same(outcome(function, *arguments, run=compiled, **options), expected)


REDUCED = [case for case in CASES if not {"scale", "axis"} & CASES[case][2].keys()]


@pytest.mark.parametrize("case", REDUCED)
@pytest.mark.parametrize(
    "reduction", ["sum_over_batch_size", "sum", "mean", "mean_with_sample_weight", "none"]
)
def test_classes(ours, case, reduction):
    """Every reduction, with and without sample weights, and masks of ignored classes."""
    name, y_true, options = CASES[case]
    options = options | {"reduction": reduction, "from_logits": True}
    theirs = getattr(keras.losses, CLASSES[name])(**options)
    mine = getattr(ours, CLASSES[name])(**options)
    assert isinstance(mine, type(theirs))
    weights = np.linspace(0.5, 2, 30, dtype=np.float32).reshape(6, 5)
    for more in ((), (weights,)):
        expected = outcome(theirs, y_true, LOGITS, *more)
        assert_same(outcome(mine, y_true, LOGITS, *more), expected)
    if "ignore_class" in options:
        assert_same(outcome(mine, y_true, LOGITS, *more, run=compiled), expected)


@pytest.mark.parametrize("name", CLASSES)
def test_signatures(ours, name):
    """Keras' names in its order with its defaults, and `client`."""
    parameters = dict(inspect.signature(getattr(ours, name)).parameters)
    assert parameters.pop("client").kind is inspect.Parameter.KEYWORD_ONLY
    expected = inspect.signature(getattr(keras.losses, name)).parameters.values()
    assert [(p.name, p.default) for p in parameters.values()] == [
        (p.name, p.default) for p in expected
    ]


class Spy(losswire.Client):
    """Notes the ids, and counts."""

    calls = 0

    def softmax_cross_entropy(self, logits, labels, **options):
        self.ids, self.calls = labels, self.calls + 1
        return super().softmax_cross_entropy(logits, labels, **options)


def test_ids_stay_integers(ours, server):
    """Keras would cast them to bfloat16, which has no 257."""
    with Spy(server.target) as spy:
        loss = ours.SparseCategoricalCrossentropy(from_logits=True, dtype="bfloat16", client=spy)
        value = loss(np.array([257]), np.zeros((1, 300), np.float32))
    assert keras.backend.standardize_dtype(value.dtype) == "bfloat16"
    assert spy.ids.tolist() == [257]
    assert spy.ids.dtype.kind == "i"


def test_they_are_saved_as_keras_saves_them(ours):
    """Configuration goes through Keras' serialisation, and the class comes back."""
    loss = ours.SparseCategoricalCrossentropy(from_logits=True, ignore_class=2)
    loaded = keras.losses.deserialize(keras.losses.serialize(loss))
    assert type(loaded) is type(loss)
    assert loaded.get_config() == loss.get_config()


# XLA of TensorFlow has no way out to a server.
STEPS = {
    "tensorflow": [{"jit_compile": False}, {"run_eagerly": True}],
    "jax": [{"jit_compile": True}, {"run_eagerly": True}],
    "torch": [{}],
}


@pytest.mark.parametrize("step", STEPS[BACKEND], ids=str)
def test_a_model_learns(ours, server, step):
    """In `fit`, with every loss from the server, where Keras compiles the step and where not."""
    keras.utils.set_random_seed(0)
    pixels = RANDOM.normal(size=(256, 8)).astype(np.float32)
    labels = pixels[:, :3].argmax(1)
    model = keras.Sequential([keras.layers.Dense(3)])
    with Spy(server.target) as spy:
        loss = ours.SparseCategoricalCrossentropy(from_logits=True, client=spy)
        model.compile(keras.optimizers.Adam(0.1), loss=loss, metrics=["accuracy"], **step)
        history = model.fit(pixels, labels, epochs=5, verbose=0).history
    assert history["accuracy"][-1] > 0.9
    assert spy.ids.dtype.kind == "i"
    assert spy.calls >= 5 * 256 / 32


@pytest.mark.parametrize(
    ("name", "y_true"), [(CATEGORICAL, SOFT[:3]), (SPARSE, IDS[:3]), (BINARY_NAME, BINARY[:3])]
)
def test_errors(ours, name, y_true):
    """Shapes that do not fit are InvalidInput, a ValueError."""
    with pytest.raises(losswire.InvalidInput, match=r": expected .*, received"):
        getattr(ours, name)(y_true, PROBABILITIES)
    with pytest.raises(losswire.InvalidInput, match=r"axis: expected .*, received 3"):
        getattr(ours, name)(y_true, PROBABILITIES[:3], axis=3)


def test_labels_have_no_gradient(ours):
    """To categorical and to binary ones, whatever the framework."""
    for name in (CATEGORICAL, BINARY_NAME):

        def both(numbers, name=name):
            losses = getattr(ours, name)(numbers, keras.ops.stop_gradient(numbers))
            return keras.ops.sum(losses + numbers[..., 0]), losses

        _, gradient = value_and_gradient(both, SOFT)
        expected = np.zeros_like(SOFT)
        expected[..., 0] = 1
        np.testing.assert_array_equal(gradient, expected)
