"""Every loss over the wire, through both clients; the warnings; the examples of the docstrings."""

import asyncio
import doctest
import inspect
import warnings

import numpy as np
import pytest

import losswire
from losswire_proto.losses import LOSSES, LossCall
from losswire_server.engine.numpy_engine import NumpyEngine
from losswire_server.requests import LossRequest

LOGITS = np.array([[2.0, 1.0, 0.5], [1.0, 0.5, 0.0]])
SOFT = np.array([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
BINARY = np.array([[1.0, 0.0, 0.25], [0.0, 1.0, 1.0]])
PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.3, 0.3, 0.4]])
EVERYTHING = {"label_smoothing": 0.1, "z_loss": 0.01, "softcap": 4.0, "temperature": 1.5}

CALLS = {
    "softmax_cross_entropy": (
        (LOGITS, [0, 1]),
        {**EVERYTHING, "class_weight": [1.0, 2.0, 0.5], "extras": ("argmax", "entropy")},
    ),
    "sigmoid_cross_entropy": ((LOGITS, BINARY), {"pos_weight": 2.5, "label_smoothing": 0.1}),
    "categorical_cross_entropy": (
        (PROBABILITIES, [2, 0]),
        {"epsilon": 0.01, "ignore_index": 2, "clip_order": "clip_first"},
    ),
    "binary_cross_entropy": ((PROBABILITIES, BINARY), {"epsilon": 1e-3}),
    "kl_divergence": (
        (LOGITS, LOGITS[::-1]),
        {"target_is_logits": True, "temperature": 2.0, "scale_by_temperature_squared": True},
    ),
    "focal": ((LOGITS, BINARY), {"gamma": 1.5, "alpha": 0.25, "form": "sigmoid"}),
    "softmax": ((LOGITS,), {}),
    "log_softmax": ((LOGITS,), {}),
    "sequence_loss": (
        (LOGITS[None], [[0, 1]], [[1.0, 0.5]]),
        {"average_across_batch": False},
    ),
}


def in_process(name, arguments, options):
    """What the engine computes without a wire between."""
    names = {"class_weight", "pos_weight"} & set(options)
    tensors = {name: np.float64(options[name]) for name in names}
    own = {key: value for key, value in options.items() if key not in tensors}
    loss = LOSSES[name](**own)
    logits = arguments[0]
    labels = np.asarray(arguments[1]) if len(arguments) > 1 else None
    if name == "sequence_loss":
        tensors["sample_weight"] = np.float64(arguments[2])
    reading = "none" if labels is None else loss.allowed_readings[0]
    if labels is not None and labels.dtype.kind == "f" and reading == "ids":
        reading = "distribution"
    engine = NumpyEngine(threads=1)
    call, axis = LossCall(loss, grad_logits=labels is not None), logits.ndim - 1
    result = engine.compute([LossRequest(call, logits, axis, labels, reading, **tensors)])
    engine.close()
    return result[0]


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_with_its_options_crosses_the_wire(server, client, name):
    """Both clients get, to the bit, what the engine computes with these options."""
    arguments, options = CALLS[name]
    expected = in_process(name, arguments, options)

    async def ask():
        async with losswire.AsyncClient(server.target) as connected:
            return await getattr(connected, name)(*arguments, **options)

    for result in (getattr(client, name)(*arguments, **options), asyncio.run(ask())):
        if expected.output is not None:
            assert np.array_equal(result, expected.output)
            continue
        assert np.array_equal(result.per_example, expected.per_example)
        assert np.array_equal(result.grad_logits, expected.grad_logits)
        assert set(result.extras) == set(expected.extras)
        for extra, values in result.extras.items():
            assert np.array_equal(values, expected.extras[extra])
        if expected.loss is not None:
            assert np.array_equal(result.loss, expected.loss)


@pytest.mark.parametrize("name", ["sigmoid_cross_entropy", "binary_cross_entropy"])
def test_elementwise_losses_reduce_over_elements(client, name):
    """reduction "none" keeps the elements; "mean" is over all of them."""
    method, inputs = getattr(client, name), PROBABILITIES
    each = method(inputs, BINARY)
    assert each.loss.shape == (2, 3)
    mean = method(inputs, BINARY, reduction="mean", sample_weight=[[1.0], [3.0]])
    weights = np.array([[1.0], [3.0]])
    assert mean.loss == pytest.approx((each.loss * weights).mean(), rel=1e-15)
    np.testing.assert_allclose(mean.grad_logits, each.grad_logits * weights / 6, rtol=1e-14)


@pytest.mark.parametrize(
    ("cls", "name"), [(losswire.Client, name) for name in LOSSES], ids=lambda value: str(value)[:30]
)
def test_examples_of_docstrings(client, cls, name):
    """The example of each method prints what it says."""
    tests = doctest.DocTestFinder(recurse=False).find(
        inspect.getattr_static(cls, name), name, globs={"client": client, "losswire": losswire}
    )
    assert sum(len(test.examples) for test in tests) >= 1
    runner = doctest.DocTestRunner(verbose=False)
    for test in tests:
        assert runner.run(test).failed == 0


def test_probabilities_given_as_logits_are_noticed_once(server):
    """A softmax applied already is warned of, once per client, naming the caller's line."""
    with losswire.Client(server.target) as client:
        with pytest.warns(UserWarning, match="was a softmax applied already") as caught:
            client.softmax_cross_entropy(PROBABILITIES, [0, 1])
        assert caught[0].filename == __file__
        client.softmax_cross_entropy(PROBABILITIES, [0, 1])


@pytest.mark.parametrize("row", [[np.inf, -np.inf, 0], [np.nan, 1, 0], [3e38, 3e38, 0]])
def test_strange_numbers_bring_no_warnings_of_numpy(server, row):
    """Of labels ours comes alone; of logits that begin like probabilities none does."""
    strange = np.array([[0.5, 0.5, 0], row], np.float32)
    with losswire.Client(server.target) as client:
        client.softmax_cross_entropy(strange, [0, 1])
        with pytest.warns(UserWarning, match="do not sum to 1") as caught:
            client.softmax_cross_entropy(LOGITS, strange)
        assert len(caught) == 1


@pytest.mark.parametrize("axis", [0, 1])
def test_rows_that_do_not_sum_to_one_are_noticed_once(server, axis):
    """Distributions off 1 are warned of, once per client; not with "tf", not for KL."""
    labels = np.array([[2.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    logits, labels = (LOGITS, labels) if axis else (LOGITS.T, labels.T)
    with losswire.Client(server.target) as client:
        client.softmax_cross_entropy(logits, labels, axis=axis, label_gradient="tf")
        client.kl_divergence(logits, labels, axis=axis)
        with pytest.warns(UserWarning, match="do not sum to 1"):
            client.softmax_cross_entropy(logits, labels, axis=axis)
        client.softmax_cross_entropy(logits, labels, axis=axis)


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        (LOGITS, SOFT),
        (LOGITS, SOFT.astype(np.float16)),
        (LOGITS, [1 / 3]),
        (LOGITS, [0.2, 0.3, 0.5]),
        (np.zeros((2, 3)), [0, 1]),
        (np.ones((2, 1)), [0, 0]),
        (np.concatenate([PROBABILITIES, LOGITS]), [0, 1, 2, 0]),
        (np.zeros((0, 3)), np.zeros(0, int)),
    ],
)
def test_no_warning_without_cause(client, logits, labels):
    """Sound labels of any shape, and logits that only begin like probabilities, are let be."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = client.softmax_cross_entropy(logits, labels)
    assert np.isfinite(result.loss).all()
