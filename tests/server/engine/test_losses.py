"""Every loss and option against 50 digits."""

import numpy as np
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from mpmath import mp

import mathematics as exact
from losswire_proto import losses
from losswire_server.engine.layout import FEW_CLASSES
from numpy_engines import compute_loss, of_two_threads
from reference import DTYPES

SEED = 20261122
EXAMPLES = 10_000

# What one rounding of an input may do to a result, Σ |dl/dz * z|, is allowed besides |l|: losses of
# float64 to 1e-13 of it, of float32 to 4 units in the last place, 2^-22.
LOSS_TOLERANCE = {"float64": 1e-13, "float32": 2.0**-22, "float16": 2.0**-22, "bfloat16": 2.0**-22}
# Gradients are differences of numbers up to the row's scale: a few roundings of it, and the one of
# their own dtype.
GRAD_TOLERANCE = {"float64": 1e-13, "float32": 2.0**-21, "float16": 2.0**-10, "bfloat16": 2.0**-7}

engine = pytest.fixture(of_two_threads, scope="module")


def pick(random, *choices):
    return choices[random.integers(len(choices))]


def distribution(random, classes, dtype):
    """A label row: soft, unnormalised, one-hot or with zeros."""
    row = random.random(classes)
    kind = random.integers(4)
    if kind == 0:
        row /= row.sum()
    elif kind == 1:
        row = np.eye(classes)[random.integers(classes)]
    elif kind == 2:
        row[random.random(classes) < 0.5] = 0
    return row.astype(dtype)


def softmax_case(random, classes, dtype):
    weights = None
    if random.random() < 0.4:
        weights = (random.random(classes) * 3).astype(dtype)
        weights[random.random(classes) < 0.2] = 0
    a, k = pick(random, 0.0, 0.1, 1.0), pick(random, 0.0, 1e-4, 0.3)
    softcap, temperature = pick(random, None, 5.0, 30.0), pick(random, 1.0, 0.5, 3.0)
    loss = losses.SoftmaxCrossEntropy(
        label_smoothing=a, z_loss=k, softcap=softcap, temperature=temperature
    )
    exact_weights = None if weights is None else exact.numbers(weights)
    options = {"a": a, "k": k, "softcap": softcap, "temperature": temperature}

    def truth(z, y):
        return exact.softmax_cross_entropy(z, y, weights=exact_weights, **options)

    return loss, truth, {"class_weight": weights}


def categorical_case(random, _classes, _dtype):
    a, first = pick(random, 0.0, 0.1), pick(random, "normalize_first", "clip_first")
    epsilon = pick(random, 1e-7, 1e-3, 0.05)
    loss = losses.CategoricalCrossEntropy(epsilon=epsilon, label_smoothing=a, clip_order=first)

    def truth(p, y):
        return exact.categorical_cross_entropy(
            p, y, epsilon=epsilon, a=a, clip_first=first == "clip_first"
        )

    return loss, truth, {}


def kl_case(random, _classes, _dtype):
    temperature, squared = pick(random, 1.0, 2.0, 0.7), pick(random, False, True)
    teacher = pick(random, False, True)
    loss = losses.KlDivergence(
        target_is_logits=teacher, temperature=temperature, scale_by_temperature_squared=squared
    )

    def truth(z, y):
        return exact.kl_divergence(
            z, y, target_is_logits=teacher, temperature=temperature, squared=squared
        )

    return loss, truth, {}


def focal_case(random, _classes, _dtype):
    gamma, alpha = pick(random, 0.0, 0.5, 1.0, 2.0, 3.7), pick(random, None, 0.25, 1.0)
    loss = losses.Focal(gamma=gamma, alpha=alpha)
    return loss, lambda z, y: exact.focal_softmax(z, y, gamma=gamma, alpha=alpha), {}


CASES = [softmax_case, softmax_case, categorical_case, kl_case, focal_case]


def assert_within(result, loss, slopes, inputs, *, floor, name):
    """Loss and gradient within their tolerances of the truth."""
    condition = float(mp.fsum(abs(s * z) for s, z in zip(slopes, inputs, strict=True)))
    error = abs(float(mp.mpf(float(result.per_example)) - loss))
    # 1e-40: what 50 digits leave of an exact 0
    assert error <= LOSS_TOLERANCE[name] * (abs(float(loss)) + condition + floor) + 1e-40, (
        f"loss {float(result.per_example)} for {float(loss)}"
    )
    scale = max(1.0, *(abs(float(s)) for s in slopes)) + floor
    for got, slope in zip(result.grad_logits.astype(np.float64).ravel(), slopes, strict=True):
        assert abs(got - float(slope)) <= GRAD_TOLERANCE[name] * scale, (
            f"gradient {result.grad_logits.tolist()} for {[float(s) for s in slopes]}"
        )


@seed(SEED)
@settings(max_examples=EXAMPLES, deadline=None, database=None)
@given(number=st.integers(0, 2**63))
@pytest.mark.timeout(600)
def test_random_options_agree_with_50_digits(engine, number):
    """10,000 random combinations of loss, options, dtype and values, one example each."""
    random = np.random.default_rng(number)
    check_random_options(engine, random, int(random.integers(1, 6)))


@seed(SEED)
@settings(max_examples=60, deadline=None, database=None)
@given(number=st.integers(0, 2**63))
@pytest.mark.timeout(600)
def test_random_options_of_many_classes_agree_with_50_digits(engine, number):
    """The same where rows lie one by one; enough classes for that, few enough for 50 digits."""
    check_random_options(engine, np.random.default_rng(number), FEW_CLASSES + 1)


def check_random_options(engine, random, classes):
    dtype = DTYPES[random.integers(4)]
    wide = np.float64 if dtype == np.float64 else np.float32
    loss, truth, tensors = pick(random, *CASES)(random, classes, wide)
    logits = (random.normal(size=classes) * pick(random, 0.3, 2.0, 8.0)).astype(dtype)
    if loss.name == "categorical_cross_entropy":
        logits = (random.random(classes) + 0.01).astype(dtype)
    if "ids" in loss.readings and random.random() < 0.5:
        label = int(random.integers(classes))
        labels, reading, y = np.array(label), "ids", exact.one_hot(label, classes)
    elif loss.name == "kl_divergence" and loss.target_is_logits:
        labels, reading = random.normal(size=classes).astype(wide), "distribution"
        y = exact.numbers(labels)
    else:
        labels, reading = distribution(random, classes, wide), "distribution"
        y = exact.numbers(labels)
    if loss.name == "kl_divergence" and not labels.any():
        labels, y = np.ones_like(labels), [mp.mpf(1)] * classes  # 0 / 0 cannot be softened
    result = compute_loss(engine, loss, logits, labels, reading, **tensors)
    z = exact.numbers(logits)
    slopes = exact.gradient(lambda inputs: truth(inputs, y), z)
    # Terms that may cancel within the loss: lse², and y log y against y log p.
    floor = 0.0
    if loss.name == "softmax_cross_entropy":
        largest = float(np.abs(logits.astype(float)).max())
        floor = 4 * loss.z_loss * max(1.0, largest) ** 2
        if loss.softcap is not None:
            # The capped logits are rounded too, and their slopes are larger than the inputs'.
            floor += float(truth(z, y)) * min(loss.softcap, largest) / loss.temperature
    elif loss.name == "kl_divergence":
        floor = 4.0 * classes * max(1.0, float(np.abs(logits.astype(float)).max()))
    elif loss.name == "focal":
        floor = 1.0 + loss.gamma
    elif loss.name == "categorical_cross_entropy":
        floor = 1.0  # the logarithm of a quotient near 1
    assert_within(result, truth(z, y), slopes, z, floor=floor, name=dtype.name)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [1.0, 5.0, 40.0])
def test_elementwise_losses_agree_with_50_digits(engine, dtype, scale):
    """Sigmoid, focal-sigmoid and binary cross-entropy, element by element."""
    random = np.random.default_rng(1)
    wide = np.float64 if dtype == np.float64 else np.float32
    logits = (random.normal(size=40) * scale).astype(dtype)
    logits[:3] = [0, 1, -1]
    labels = np.where(random.random(40) < 0.5, random.random(40), random.random(40) < 0.5)
    labels = labels.astype(wide)
    weight = (random.random(40) * 3).astype(wide)
    probabilities = random.random(40).astype(dtype)
    cases = [
        (losses.SigmoidCrossEntropy(), logits, {}, exact.sigmoid_cross_entropy, {}),
        (
            losses.SigmoidCrossEntropy(label_smoothing=0.2),
            logits,
            {"pos_weight": weight},
            exact.sigmoid_cross_entropy,
            {"a": 0.2},
        ),
        (losses.Focal(form="sigmoid"), logits, {}, exact.focal_sigmoid, {}),
        (
            losses.Focal(form="sigmoid", gamma=0.5, alpha=0.25),
            logits,
            {},
            exact.focal_sigmoid,
            {"gamma": 0.5, "alpha": 0.25},
        ),
        *(
            (losses.Focal(form="sigmoid", gamma=g), logits, {}, exact.focal_sigmoid, {"gamma": g})
            for g in (0.0, 1.0, 3.0, 3.7)
        ),
        (losses.BinaryCrossEntropy(), probabilities, {}, exact.binary_cross_entropy, {}),
        (
            losses.BinaryCrossEntropy(epsilon=0.01, label_smoothing=0.1),
            probabilities,
            {},
            exact.binary_cross_entropy,
            {"epsilon": 0.01, "a": 0.1},
        ),
    ]
    for loss, inputs, tensors, truth, options in cases:
        result = compute_loss(engine, loss, inputs, labels, "elements", **tensors)
        for i in range(40):
            z, y = mp.mpf(float(inputs[i])), mp.mpf(float(labels[i]))
            extra = {"pos_weight": mp.mpf(float(weight[i]))} if tensors else {}

            def of(value, y=y, extra=extra, truth=truth, options=options):
                return truth(value[0], y, **options, **extra)

            expected, (slope,) = of([z]), exact.gradient(of, [z])
            condition = abs(float(expected)) + abs(float(slope * z)) + 1e-30
            error = abs(float(result.per_example[i]) - float(expected))
            # pow and a product of five in the focal form
            slack = 4 if loss.name == "focal" else 1
            assert error <= slack * LOSS_TOLERANCE[dtype.name] * condition, (loss, z, y)
            error = abs(float(result.grad_logits[i]) - float(slope))
            size = max(abs(float(slope)), 1.0)
            assert error <= slack * GRAD_TOLERANCE[dtype.name] * size, (loss, z, y)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_softmax_and_its_logarithm(engine, dtype):
    """Outputs in the logits' dtype agree with 50 digits; masked classes are 0 and -inf."""
    logits = (np.random.default_rng(2).normal(size=6) * 3).astype(dtype)
    logits[2] = -np.inf
    kept = [0, 1, 3, 4, 5]
    p = exact.softmax(exact.numbers(logits[kept]))
    eps = {"float64": 1e-14, "float32": 5e-7, "float16": 2.0**-10, "bfloat16": 2.0**-8}[dtype.name]
    output = compute_loss(engine, losses.Softmax(), logits, None, "none").output
    assert output.dtype == dtype
    # float16 below 2^-14 has steps of 2^-24.
    atol = 2.0**-25 if dtype == np.float16 else 0
    expected = [float(x) for x in p]
    np.testing.assert_allclose(output[kept].astype(float), expected, rtol=eps, atol=atol)
    assert output[2] == 0
    output = compute_loss(engine, losses.LogSoftmax(), logits, None, "none").output
    np.testing.assert_allclose(output[kept].astype(float), [float(mp.log(x)) for x in p], rtol=eps)
    assert output[2] == -np.inf
