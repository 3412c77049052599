"""What a row is computed with changes no bit of it: batches, splits, layouts and threads."""

import itertools
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from losswire_proto import losses
from losswire_proto.losses import LossCall
from losswire_server.engine import tiles
from losswire_server.requests import LossRequest
from numpy_engines import compute, of_two_threads, request_of
from reference import DTYPES

engine = pytest.fixture(of_two_threads, scope="module")


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


def dense(result):
    """The arrays of a result that hold rows and classes."""
    return result.per_example, result.grad_logits, result.grad_labels, result.output


def bits(result):
    arrays = (result.loss, *dense(result), *result.extras.values())
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
