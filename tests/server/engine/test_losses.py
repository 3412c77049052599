"""Every loss and option against 50 digits, and the known answers of SEMANTICS."""

import itertools

import numpy as np
import pytest
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from mpmath import mp

import mathematics as exact
from losswire_proto import losses
from losswire_proto.losses import LossCall
from losswire_server.engine.layout import FEW_CLASSES
from losswire_server.engine.numpy_engine import NumpyEngine
from losswire_server.requests import LossRequest
from reference import DTYPES

SEED = 20261122
EXAMPLES = 10_000

# What one rounding of an input may do to a result, Σ |dl/dz * z|, is allowed besides |l|: losses of
# float64 to 1e-13 of it, of float32 to 4 units in the last place, 2^-22.
LOSS_TOLERANCE = {"float64": 1e-13, "float32": 2.0**-22, "float16": 2.0**-22, "bfloat16": 2.0**-22}
# Gradients are differences of numbers up to the row's scale: a few roundings of it, and the one of
# their own dtype.
GRAD_TOLERANCE = {"float64": 1e-13, "float32": 2.0**-21, "float16": 2.0**-10, "bfloat16": 2.0**-7}


@pytest.fixture(scope="module")
def engine():
    made = NumpyEngine(threads=1)
    yield made
    made.close()


def compute(engine, loss, logits, labels, reading, **tensors):
    call = LossCall(loss, grad_logits=reading != "none")
    return engine.compute([LossRequest(call, logits, logits.ndim - 1, labels, reading, **tensors)])[
        0
    ]


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
    result = compute(engine, loss, logits, labels, reading, **tensors)
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
        result = compute(engine, loss, inputs, labels, "elements", **tensors)
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


ARGUMENTS = np.array([[2.0, 1.0, 0.5], [1.0, 0.5, 0.0]])


def test_known_answers(engine):
    """The other rows of SEMANTICS' table, TensorFlow 2.21 and Keras 3.15 in float64."""
    one_hot = np.eye(3)[:2]
    expected = [[0.1269280110429725, 1.3132616875182228, 0.9740769841801067]]
    expected += [[1.3132616875182228, 0.4740769841801067, 0.6931471805599453]]
    sigmoid = losses.SigmoidCrossEntropy()
    result = compute(engine, sigmoid, ARGUMENTS, one_hot, "elements")
    np.testing.assert_allclose(result.per_example, expected, rtol=1e-15)
    weighted = compute(
        engine, sigmoid, ARGUMENTS, one_hot, "elements", pos_weight=np.float64([2.5])
    )
    expected = [[0.3173200276074312, 1.3132616875182228, 0.9740769841801067]]
    expected += [[1.3132616875182228, 1.1851924604502666, 0.6931471805599453]]
    np.testing.assert_allclose(weighted.per_example, expected, rtol=1e-15)
    for p in ([0.05, 0.9, 0.05], [1.0, 18.0, 1.0]):
        for label, reading in ((np.float64([0, 1, 0]), "distribution"), (np.array(1), "ids")):
            result = compute(
                engine, losses.CategoricalCrossEntropy(), np.float64(p), label, reading
            )
            np.testing.assert_allclose(result.per_example, 0.10536051565782628, rtol=1e-15)
    result = compute(engine, losses.Softmax(), np.float64([2, 1, 0.1]), None, "none")
    expected = [0.6590011388859679, 0.24243297070471392, 0.09856589040931818]
    np.testing.assert_allclose(result.output, expected, rtol=1e-15)


def test_sigmoid_at_zero(engine):
    """At z = 0 the gradient is exactly 1/2 - y."""
    labels = np.float32([0, 1, 0.25, 0.5])
    result = compute(
        engine, losses.SigmoidCrossEntropy(), np.zeros(4, np.float32), labels, "elements"
    )
    assert result.grad_logits.tolist() == (np.float32(0.5) - labels).tolist()


def test_sigmoid_keeps_the_digits_of_weights_near_zero(engine):
    """With pos_weight 0 what is left of a label 1 - 2^-10 is 2^-10 of softplus, to float32."""
    logits, labels = np.float32([-3, -0.5, 0, 2, 40]), np.full(5, 1 - 2.0**-10, np.float32)
    result = compute(
        engine,
        losses.SigmoidCrossEntropy(),
        logits,
        labels,
        "elements",
        pos_weight=np.zeros(1, np.float32),
    )
    z = logits.astype(np.float64)
    np.testing.assert_allclose(result.per_example, 2.0**-10 * np.logaddexp(0, z), rtol=2.0**-22)
    expected = 2.0**-10 / (1 + np.exp(-z))
    np.testing.assert_allclose(result.grad_logits, expected, rtol=2.0**-22)


def test_sigmoid_of_extreme_logits(engine):
    """±1e30 and ±inf: right costs nothing, wrong its distance; gradients are 0 and 1."""
    logits = np.float32([1e30, 1e30, -1e30, -1e30, np.inf, -np.inf])
    labels = np.float32([0, 1, 0, 1, 0, 1])
    result = compute(engine, losses.SigmoidCrossEntropy(), logits, labels, "elements")
    expected = np.float32([1e30, 0, 0, 1e30, np.inf, np.inf])
    np.testing.assert_array_equal(result.per_example, expected)
    np.testing.assert_array_equal(result.grad_logits, [1, 0, 0, -1, 1, -1])
    focal = losses.Focal(form="sigmoid", gamma=1.0)
    result = compute(engine, focal, logits[:4], labels[:4], "elements")
    np.testing.assert_array_equal(result.per_example, expected[:4])
    np.testing.assert_array_equal(result.grad_logits, [1, 0, 0, -1])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_softmax_and_its_logarithm(engine, dtype):
    """Outputs in the logits' dtype agree with 50 digits; masked classes are 0 and -inf."""
    logits = (np.random.default_rng(2).normal(size=6) * 3).astype(dtype)
    logits[2] = -np.inf
    kept = [0, 1, 3, 4, 5]
    p = exact.softmax(exact.numbers(logits[kept]))
    eps = {"float64": 1e-14, "float32": 5e-7, "float16": 2.0**-10, "bfloat16": 2.0**-8}[dtype.name]
    output = compute(engine, losses.Softmax(), logits, None, "none").output
    assert output.dtype == dtype
    # float16 below 2^-14 has steps of 2^-24.
    atol = 2.0**-25 if dtype == np.float16 else 0
    expected = [float(x) for x in p]
    np.testing.assert_allclose(output[kept].astype(float), expected, rtol=eps, atol=atol)
    assert output[2] == 0
    output = compute(engine, losses.LogSoftmax(), logits, None, "none").output
    np.testing.assert_allclose(output[kept].astype(float), [float(mp.log(x)) for x in p], rtol=eps)
    assert output[2] == -np.inf


def test_extras(engine):
    """Logsumexp, argmax and entropy of the logits after softcap and temperature."""
    loss = losses.SoftmaxCrossEntropy(
        softcap=2.0, temperature=0.5, extras=("logsumexp", "argmax", "entropy")
    )
    logits = np.float64([[3, -1, 3, 0.5], [0, 0, 0, 0], [-np.inf, 1, 0, -np.inf]])
    result = compute(engine, loss, logits, np.array([0, 1, 1]), "ids")
    z = 2 * np.tanh(logits / 2) / 0.5
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(result.extras["logsumexp"], np.log(np.exp(z).sum(axis=1)))
    np.testing.assert_allclose(result.extras["entropy"], -(p * np.log(p)).sum(axis=1))
    assert result.extras["argmax"].tolist() == [0, 0, 1]
    plain = losses.SoftmaxCrossEntropy(extras=("entropy",))
    masked = compute(engine, plain, np.float32([[0, -np.inf, 0]]), np.array([0]), "ids")
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
    result = compute(engine, loss, logits, ids, "ids", sample_weight=weights)
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


def all_losses(classes=5):
    """A request of each loss with most of its options on, as (loss, labels, reading, tensors)."""
    random = np.random.default_rng(4)
    ids, soft = random.integers(0, classes, 64), random.random((64, classes)).astype(np.float32)
    weights = random.random(classes).astype(np.float32)
    everything = {"label_smoothing": 0.1, "z_loss": 0.01, "softcap": 4.0, "temperature": 1.5}
    extras = {"extras": ("logsumexp", "argmax", "entropy")}
    return [
        (losses.SoftmaxCrossEntropy(**everything, **extras), ids, "ids", {"class_weight": weights}),
        (losses.SoftmaxCrossEntropy(**everything), soft, "distribution", {"class_weight": weights}),
        (losses.SigmoidCrossEntropy(label_smoothing=0.1), soft, "elements", {"pos_weight": soft}),
        (losses.CategoricalCrossEntropy(label_smoothing=0.1), ids, "ids", {}),
        (losses.BinaryCrossEntropy(), soft, "elements", {}),
        (losses.KlDivergence(temperature=2.0), soft, "distribution", {}),
        (losses.Focal(), ids, "ids", {}),
        (losses.Focal(gamma=1.5, alpha=0.25), soft, "distribution", {}),
        (losses.Focal(form="sigmoid", alpha=0.25), soft, "elements", {}),
        (losses.Softmax(), None, "none", {}),
        (losses.LogSoftmax(), None, "none", {}),
    ]


def bits(result):
    arrays = (*dense(result), *result.extras.values())
    return [None if a is None else a.tobytes() for a in arrays]


def joined(results):
    """The bits of several results, end to end."""
    parts = zip(*map(bits, results), strict=True)
    return [None if part[0] is None else b"".join(part) for part in parts]


@pytest.mark.parametrize("case", all_losses(), ids=lambda case: f"{case[0].name}-{case[2]}")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(max_examples=15, deadline=None)
@given(cuts=st.sets(st.integers(1, 63)), order=st.randoms(use_true_random=False))
def test_no_batch_or_split_changes_a_bit(engine, case, dtype, cuts, order):
    """However rows are split and whatever they are batched with, their results keep their bits.

    Some rows hold NaN, +inf and -inf, whose results have the same bits too.
    """
    loss, labels, reading, tensors = case
    logits = (np.random.default_rng(5).random((64, 5)) * 6).astype(dtype)
    logits[3], logits[10, 2], logits[20, 1], logits[30] = -np.inf, np.nan, np.inf, 0
    logits[40, 2:4] = -np.inf

    def request(rows):
        part = None if labels is None else labels[rows]
        given = {
            name: tensor[rows] if name == "pos_weight" else tensor
            for name, tensor in tensors.items()
        }
        call = LossCall(loss, grad_logits=reading != "none")
        return LossRequest(call, logits[rows], 1, part, reading, **given)

    whole = bits(engine.compute([request(slice(None))])[0])
    edges = [0, *sorted(cuts), 64]
    parts = [request(slice(a, b)) for a, b in itertools.pairwise(edges)]
    assert joined([engine.compute([part])[0] for part in parts]) == whole
    places = list(range(len(parts)))
    order.shuffle(places)
    batched = dict(zip(places, engine.compute([parts[i] for i in places]), strict=True))
    assert joined([batched[i] for i in range(len(parts))]) == whole


@pytest.mark.parametrize("classes", [1, 2, 3, 7, 8, 9, 10, 16, 17, 33, 63, 64, 65])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_layout_changes_a_bit(engine, classes, dtype):
    """Rows alone, by two, by three and along another axis: the bits they have together."""
    random = np.random.default_rng(classes)
    logits = (random.normal(size=(64, classes)) * 6).astype(dtype)
    logits[3], logits[10, classes // 2], logits[20, 0], logits[30] = -np.inf, np.nan, np.inf, 0
    logits[40, 1:], logits[50], logits[50, 0] = -np.inf, np.nan, -np.float32(np.nan)
    for loss, labels, reading, tensors in all_losses(classes):
        is_soft = loss.name == "softmax_cross_entropy" and reading == "distribution"
        call = LossCall(loss, grad_logits=reading != "none", grad_labels=is_soft)

        def result(rows, axis=1, call=call, labels=labels, reading=reading, tensors=tensors):
            part = None if labels is None else labels[rows]
            given = {
                name: tensor[rows] if name == "pos_weight" else tensor
                for name, tensor in tensors.items()
            }
            inputs = logits[rows]
            if axis == 0:
                inputs = np.ascontiguousarray(inputs.T)
                part = part if reading in {"ids", "none"} else np.ascontiguousarray(part.T)
            request = LossRequest(call, inputs, axis, part, reading, **given)
            return engine.compute([request])[0]

        whole = bits(result(slice(None)))
        for step in (1, 2, 3, 63):
            parts = [result(slice(i, min(i + step, 64))) for i in range(0, 64, step)]
            assert joined(parts) == whole, f"{loss} by {step}"
        if reading != "elements":
            for rows in (slice(None), slice(9, 12), slice(10, 11)):
                along, across = result(rows), result(rows, axis=0)
                for a, b in zip(dense(along), dense(across), strict=True):
                    assert (a is None and b is None) or a.tobytes() == b.T.tobytes(), str(loss)


def dense(result):
    """The arrays of a result that hold rows and classes."""
    return result.per_example, result.grad_logits, result.grad_labels, result.output


def test_confident_predictions_in_bfloat16(engine):
    """p = 0.999…: the loss and the gradient of the true class keep their digits, and their sign."""
    logits = np.zeros((6, 3), DTYPES[1])
    logits[:, 1] = [7, 8, 10, 16, 30, 80]
    labels = np.full(6, 1)
    result = compute(engine, losses.SoftmaxCrossEntropy(), logits, labels, "ids")
    tail = 2 * np.exp(-logits[:, 1].astype(np.float64))
    np.testing.assert_allclose(result.per_example, np.log1p(tail), rtol=1e-6)
    gradient = result.grad_logits[:, 1].astype(np.float64)
    np.testing.assert_allclose(gradient, -tail / (1 + tail), rtol=2.0**-8)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_common_offsets_of_ten_thousand(engine, dtype):
    """1e4 added to all logits of a row: the loss is that of the logits as they then are."""
    logits = (np.random.default_rng(6).normal(size=(20, 5)) + 1e4).astype(dtype)
    ids = np.arange(20) % 5
    wide = logits.astype(np.longdouble)
    wide -= wide.max(axis=1, keepdims=True)
    expected = np.log(np.exp(wide).sum(axis=1)) - wide[np.arange(20), ids]
    result = compute(engine, losses.SoftmaxCrossEntropy(), logits, ids, "ids")
    tolerance = {"float32": 1e-6, "float64": 1e-13}[dtype]
    np.testing.assert_allclose(result.per_example, expected.astype(float), rtol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_300_000_classes(engine, dtype):
    """A vocabulary of 300,000, ids beyond 2^16 and 2^18, by sums in long double."""
    logits = np.random.default_rng(7).normal(size=(3, 300_000)).astype(dtype)
    ids = np.array([299_999, 70_000, 0])
    wide = logits.astype(np.float64).astype(np.longdouble)
    total = np.exp(wide).sum(axis=1)
    picked = wide[np.arange(3), ids]
    result = compute(engine, losses.SoftmaxCrossEntropy(), logits, ids, "ids")
    tolerance = 1e-13 if dtype == np.float64 else 2.0**-22
    expected = (np.log(total) - picked).astype(float)
    np.testing.assert_allclose(result.per_example, expected, rtol=tolerance)
    at_true = result.grad_logits[np.arange(3), ids].astype(np.float64)
    np.testing.assert_allclose(at_true, (np.exp(picked) / total - 1).astype(float), rtol=2.0**-8)


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
        flat = compute(engine, plain, rows, ids.reshape(-1), "ids")
        assert result.per_example.shape == examples
        assert np.array_equal(result.per_example.reshape(-1), flat.per_example)
        moved = np.moveaxis(result.grad_logits, axis, -1).reshape(rows.shape)
        assert np.array_equal(moved, flat.grad_logits)


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"])
def test_ids_of_every_integer_dtype(engine, dtype):
    """Ids mean the same in any integer dtype."""
    logits = np.random.default_rng(8).normal(size=(4, 100))
    ids = np.array([0, 99, 50, 7])
    plain = losses.SoftmaxCrossEntropy()
    expected = compute(engine, plain, logits, ids, "ids").per_example
    got = compute(engine, plain, logits, ids.astype(dtype), "ids").per_example
    assert np.array_equal(got, expected)


def test_probabilities_without_clipping(engine):
    """With an epsilon of 0 a certain, right answer costs 0 and a certain, wrong one infinity."""
    loss, p = losses.BinaryCrossEntropy(epsilon=0.0), np.float32([0, 1, 0, 1])
    result = compute(engine, loss, p, np.float32([0, 1, 1, 0]), "elements")
    assert result.per_example.tolist() == [0, 0, np.inf, np.inf]
    assert result.grad_logits[:2].tolist() == [1, -1]
    loss, p = losses.CategoricalCrossEntropy(epsilon=0.0), np.float32([[0, 1], [0, 1]])
    result = compute(engine, loss, p, np.array([1, 0]), "ids")
    assert result.per_example.tolist() == [0, np.inf]
    assert result.grad_logits[0].tolist() == [1, 0]


def test_class_weights_of_equal_bytes_do_not_share_a_batch():
    """The same bytes as float16 and as bfloat16 are other weights, and another batch."""
    half, brain = np.array([1, 2, 3], DTYPES[0]), np.array([1, 2, 3], DTYPES[0]).view(DTYPES[1])
    assert half.tobytes() == brain.tobytes()
    logits, ids = np.zeros((2, 3), np.float32), np.array([0, 1])
    keys = {
        LossRequest(LossCall(), logits, 1, ids, "ids", class_weight=weight).batch_key
        for weight in (half, brain, half.copy())
    }
    assert len(keys) == 2
