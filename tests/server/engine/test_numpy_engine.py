"""The NumPy engine against hand-computed literals, finite differences, long double, and itself."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from losswire_proto.losses import LossCall, SoftmaxCrossEntropy
from losswire_server.engine import tiles
from losswire_server.engine.numpy_engine import NumpyEngine
from losswire_server.requests import LossRequest
from reference import DTYPES, GRAD_TOLERANCE, LOSS_TOLERANCE, assert_close, loss_and_gradient

LOGITS = np.array([[2.0, 1.0, 0.5], [1.0, 0.5, 0.0]])
LOSS = [0.4643687841079449, 1.1802696706417346]
GRAD = [
    [-0.37146828078823757, 0.23122389762214904, 0.14024438316608848],
    [0.506480391055654, -0.6928041142815016, 0.1863237232258476],
]
GRAD_LABELS = [
    [0.4643687841079449, 1.464368784107945, 1.964368784107945],
    [0.6802696706417346, 1.1802696706417346, 1.6802696706417346],
]


@pytest.fixture(scope="module")
def engine():
    made = NumpyEngine(threads=2)
    yield made
    made.close()


def request_of(logits, labels, *, axis=-1, sample_weight=None, gradients=True, loss=None, **call):
    """A request as validation would make it."""
    is_ids = labels.dtype.kind in "iu"
    return LossRequest(
        call=LossCall(
            loss=loss or SoftmaxCrossEntropy(),
            axis=axis,
            grad_logits=gradients,
            grad_labels=gradients and not is_ids,
            **call,
        ),
        logits=logits,
        axis=axis % logits.ndim,
        labels=labels,
        reading="ids" if is_ids else "distribution",
        sample_weight=sample_weight,
    )


def compute(engine, *args, **kwargs):
    return engine.compute([request_of(*args, **kwargs)])[0]


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
    measured against the larger of it and Σq / 16.
    """
    logits, labels, axis = problem
    result = compute(engine, logits, labels, axis=axis)
    # Labels are converted to the dtype of the computation; that is not an error of it.
    wide = labels if labels.dtype.kind in "iu" else labels.astype(result.per_example.dtype)
    loss, gradient = loss_and_gradient(logits, wide, axis=axis)
    name = logits.dtype.name
    assert_close(result.per_example, loss, LOSS_TOLERANCE[name])
    mass = 1.0 if labels.dtype.kind in "iu" else logits.shape[axis]
    assert_close(result.grad_logits, gradient, GRAD_TOLERANCE[name], floor=mass / 16)


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
    mass = 1.0 if labels.dtype.kind in "iu" else logits.shape[axis]
    expected = gradient * np.expand_dims(scale, axis)
    # float16 gradients below its smallest normal number, 2^-14, are rounded to steps of 2^-24.
    floor = max(mass / 16 * scale.max(), 2**-13 if name == "float16" else 0.0)
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


def test_gradient_rows_sum_to_zero(engine):
    """Softmax is invariant to a common offset, so each gradient row sums to 0."""
    logits = np.random.default_rng(2).normal(size=(50, 37)).astype(np.float32)
    for labels in (np.arange(50) % 37, np.full((50, 37), 1 / 37, np.float32)):
        grad = compute(engine, logits, labels).grad_logits
        # 37 terms, each rounded to float32 at magnitude below 1
        assert np.abs(grad.sum(axis=1, dtype=np.float64)).max() < 37 * 2**-24


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_confident_rows_keep_their_digits(engine, dtype):
    """At p_y = 1 - 1e-9 the loss is 1e-9 and the gradient -1e-9, to full relative precision."""
    gap = np.log(1e9)
    logits = np.array([[gap, 0.0]], dtype)
    tail = np.exp(-np.float64(logits[0, 0]))
    for labels in (np.array([0]), np.array([[1.0, 0.0]])):
        result = compute(engine, logits, labels)
        tolerance = {"float32": 3e-7, "float64": 1e-15}[dtype]
        np.testing.assert_allclose(result.per_example, [np.log1p(tail)], rtol=tolerance)
        np.testing.assert_allclose(
            result.grad_logits, [[-tail / (1 + tail), tail / (1 + tail)]], rtol=tolerance
        )


@pytest.mark.parametrize("gap", [9.0, 12.3, 13.7, 16.1, 20.2, 31.7, 60.3, 90.1])
def test_sure_rows_keep_their_digits_whatever_the_gap(engine, gap):
    """One logit far above the others: the float32 loss is good to 1e-6, however small it is."""
    logits = np.random.default_rng(4).normal(size=(200, 6)).astype(np.float32)
    logits[:, 2] += np.float32(gap)
    ids = np.full(200, 2)
    for labels in (ids, np.eye(6, dtype=np.float32)[ids]):
        result = compute(engine, logits, labels)
        loss, _ = loss_and_gradient(logits, labels)
        # float32 below its smallest normal number has fewer digits, in steps of 2^-149.
        floor = 2.0**-126
        assert_close(result.per_example, loss, 1e-6, floor)
        # p - 1 = e^-loss - 1, which long double cannot form as a difference
        assert_close(result.grad_logits[:, 2], np.expm1(-loss), 1e-6, floor)


def test_common_offset_changes_nothing(engine):
    """Adding 2^20 to all logits of a row, which float32 holds exactly here, changes no bit."""
    logits = np.random.default_rng(3).integers(-8, 8, (20, 10)).astype(np.float32)
    ids = np.arange(20) % 10
    plain, offset = compute(engine, logits, ids), compute(engine, logits + 2.0**20, ids)
    assert np.array_equal(plain.per_example, offset.per_example)
    assert np.array_equal(plain.grad_logits, offset.grad_logits)


def test_extreme_logits(engine):
    """±1e30 in float32: a certain row costs nothing, a wrong one its distance."""
    logits = np.array([[1e30, -1e30, 0.0], [1e30, -1e30, 0.0]], np.float32)
    result = compute(engine, logits, np.array([0, 1]))
    np.testing.assert_array_equal(result.per_example, np.float32([0, 2e30]))
    np.testing.assert_array_equal(result.grad_logits, [[0, 0, 0], [1, -1, 0]])


def test_masked_classes(engine):
    """-inf logits have probability and gradient 0; as the label they cost inf, unweighted 0."""
    logits = np.array([[0.0, -np.inf, 0.0], [0.0, -np.inf, 0.0]], np.float32)
    result = compute(engine, logits, np.array([0, 1]))
    np.testing.assert_allclose(result.per_example, [np.log(2), np.inf], rtol=1e-7)
    np.testing.assert_array_equal(result.grad_logits, [[-0.5, 0, 0.5], [0.5, -1, 0.5]])
    soft = compute(engine, logits, np.array([[0.5, 0.0, 0.5], [0.0, 0.5, 0.5]], np.float32))
    np.testing.assert_allclose(soft.per_example, [np.log(2), np.inf], rtol=1e-7)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf, "all -inf"], ids=str)
def test_rows_without_softmax_are_nan_alone(engine, dtype, bad):
    """NaN, +inf or nothing but -inf makes NaN of its own row and of no other."""
    logits = np.arange(12).reshape(4, 3).astype(dtype)
    good = compute(engine, logits.copy(), np.array([0, 1, 2, 0]))
    logits[2] = -np.inf
    if bad != "all -inf":
        logits[2] = [0, bad, 1]
    for labels in (np.array([0, 1, 2, 0]), np.eye(3, dtype=dtype)[[0, 1, 2, 0]]):
        result = compute(engine, logits, labels)
        assert np.isnan(result.per_example[2])
        assert np.isnan(result.grad_logits[2].astype(np.float32)).all()
        others = [0, 1, 3]
        assert np.isfinite(result.per_example[others]).all()
        if labels.ndim == 1:
            assert np.array_equal(result.per_example[others], good.per_example[others])
            assert np.array_equal(result.grad_logits[others], good.grad_logits[others])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_ignored_rows_are_exactly_zero(engine, bad):
    """Rows with ignore_index have loss 0 and gradient 0, also where their logits are not finite."""
    logits = np.full((3, 4), bad, np.float32)
    logits[1] = [1, 2, 3, 4]
    ids = np.array([-100, 2, -100])
    loss = SoftmaxCrossEntropy(ignore_index=-100)
    result = compute(engine, logits, ids, loss=loss, reduction="mean")
    assert result.per_example[[0, 2]].tolist() == [0, 0]
    assert (result.grad_logits[[0, 2]] == 0).all()
    # One of three counts, so the mean is its own loss: log(1 + e^-1 + e^-2 + e^-3) + 1.
    assert result.loss == pytest.approx(1.4401896985611953, rel=1e-7)


def test_ignore_index_may_be_a_class(engine):
    """An ignore_index within [0, classes) ignores that class."""
    loss = SoftmaxCrossEntropy(ignore_index=1)
    result = compute(engine, LOGITS, np.array([0, 1]), loss=loss, reduction="mean")
    assert result.loss == pytest.approx(LOSS[0], rel=1e-15)
    assert result.per_example[1] == 0


@pytest.mark.parametrize(("mode", "expected"), [("nan", np.nan), ("ignore", 0.0)])
def test_ids_out_of_range_as_asked(engine, mode, expected):
    """Out of range, "nan" makes the row NaN and "ignore" counts it as ignored; none wraps round."""
    ids = np.array([0, -1, 3, 1])
    logits = np.concatenate([LOGITS, LOGITS])
    loss = SoftmaxCrossEntropy(out_of_range=mode)
    result = compute(engine, logits, ids, loss=loss)
    np.testing.assert_array_equal(result.per_example[1:3], [expected] * 2)
    np.testing.assert_array_equal(result.grad_logits[1:3], np.full((2, 3), expected))
    assert np.isfinite(result.per_example[[0, 3]]).all()
    mean = compute(engine, logits, ids, loss=loss, reduction="mean").loss
    good = result.per_example[[0, 3]].mean()
    assert mean == pytest.approx(good) if mode == "ignore" else np.isnan(mean)


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


def test_rank_one(engine):
    """A single example without any other axis has a scalar loss."""
    result = compute(engine, np.array([2.0, 1.0, 0.5]), np.array(0))
    assert result.per_example.shape == ()
    assert result.per_example == pytest.approx(LOSS[0], rel=1e-15)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_of_results(engine, dtype):
    """Losses are float32, float64 for float64; gradients have the dtype of their tensor."""
    result = compute(engine, LOGITS.astype(dtype), np.eye(3, dtype=np.float32)[:2])
    assert result.per_example.dtype == (np.float64 if dtype == np.float64 else np.float32)
    assert result.grad_logits.dtype == dtype
    assert result.grad_labels.dtype == np.float32


def test_half_gradient_is_rounded_once(engine):
    """A half-precision gradient is the float32 one, rounded: p - 1 is formed before."""
    logits = np.array([[8.0, 0.0, 0.0]])
    wide = compute(engine, logits.astype(np.float32), np.array([0])).grad_logits
    for dtype in DTYPES[:2]:
        half = compute(engine, logits.astype(dtype), np.array([0])).grad_logits
        assert np.array_equal(half, wide.astype(dtype))
        assert half[0, 0] != 0


def mixed_batch(dtype, kind, random):
    """Requests of many sizes, some larger than a tile, that share a batch key."""
    requests = []
    classes = 7
    limit = tiles.TILE_ELEMENTS // classes
    for rows in (1, 2, 3, 64, limit - 1, limit, limit + 1, 2 * limit + 5, 1, 17):
        logits = random.normal(size=(rows, classes)).astype(dtype)
        if kind == "ids":
            labels = random.integers(0, classes, rows)
        else:
            labels = random.random((rows, classes)).astype(np.float32)
        weight = random.random(rows) if rows % 2 else None
        reduction = ("none", "sum", "mean")[rows % 3]
        requests.append(request_of(logits, labels, sample_weight=weight, reduction=reduction))
    for inner in (2, 3):
        shape = (4, classes, inner)
        logits = random.normal(size=shape).astype(dtype)
        labels = random.integers(0, classes, (4, inner))
        if kind != "ids":
            labels = random.random(shape).astype(np.float32)
        requests.append(request_of(logits, labels, axis=1))
    return requests


def bits(result):
    arrays = (result.loss, result.per_example, result.grad_logits, result.grad_labels)
    return [None if array is None else array.tobytes() for array in arrays]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", ["ids", "distribution"])
def test_batching_changes_no_bit(engine, dtype, kind):
    """A request's result has the same bits alone and in any batch, in any order."""
    random = np.random.default_rng(5)
    requests = mixed_batch(dtype, kind, random)
    assert len({request.batch_key for request in requests}) == 1
    alone = [bits(engine.compute([request])[0]) for request in requests]
    for order in (random.permutation(len(requests)) for _ in range(6)):
        together = engine.compute([requests[i] for i in order])
        assert [bits(result) for result in together] == [alone[i] for i in order]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("classes", [1, 2, 3, 8, 10, 129, 1000, 5003])
def test_splitting_changes_no_bit(engine, dtype, classes):
    """Rows computed one by one, or along another axis, have the bits they have together."""
    random = np.random.default_rng(6)
    logits = (random.normal(size=(9, classes)) * 4).astype(dtype)
    labels = random.random((9, classes)).astype(np.float32)
    for target in (random.integers(0, classes, 9), labels):
        whole = compute(engine, logits, target)
        rows = [compute(engine, logits[i : i + 1], target[i : i + 1]) for i in range(9)]
        assert whole.per_example.tobytes() == b"".join(r.per_example.tobytes() for r in rows)
        assert whole.grad_logits.tobytes() == b"".join(r.grad_logits.tobytes() for r in rows)
        turned = target if target.ndim == 1 else np.ascontiguousarray(target.T)
        across = compute(engine, np.ascontiguousarray(logits.T), turned, axis=0)
        assert across.per_example.tobytes() == whole.per_example.tobytes()
        assert np.ascontiguousarray(across.grad_logits.T).tobytes() == whole.grad_logits.tobytes()


def test_threads_do_not_mix_up_results(engine):
    """Batches computed from several threads at once get their own results."""
    random = np.random.default_rng(7)
    requests = [
        request_of(random.normal(size=(500, 300)).astype(np.float32), random.integers(0, 300, 500))
        for _ in range(8)
    ]
    expected = [bits(engine.compute([request])[0]) for request in requests]
    wrong = []

    def work(index):
        wrong.extend(
            index
            for _ in range(10)
            if bits(engine.compute([requests[index]])[0]) != expected[index]
        )

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


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
