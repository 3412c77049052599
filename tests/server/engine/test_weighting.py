"""Reductions, normalizers and means over nothing, by hand."""

import numpy as np
import pytest

from losswire_proto.losses import LossCall, SequenceLoss, Softmax, SoftmaxCrossEntropy
from losswire_server.engine.weighting import reduce, weigh
from losswire_server.requests import LossRequest


def request_of(ids, *, sample_weight=None, ignore_index=None, **call):
    """A request over four classes; the logits do not matter here."""
    ids = np.asarray(ids)
    return LossRequest(
        call=LossCall(loss=SoftmaxCrossEntropy(ignore_index=ignore_index), **call),
        logits=np.zeros((*ids.shape, 4), np.float32),
        axis=ids.ndim,
        labels=ids,
        reading="ids",
        sample_weight=None if sample_weight is None else np.asarray(sample_weight, np.float32),
    )


# Losses 1, 2, 4, 8 with weights 3, 1, 0.5, 2 and the last one ignored: the weighted losses are
# 3, 2, 2 and 0, so their sum is 7; 3 examples count, with weights 4.5.
WEIGHTED = np.float32([3, 2, 2, 0])


@pytest.mark.parametrize(
    ("reduction", "normalizer", "expected"),
    [
        ("sum", "valid", 7.0),
        ("mean", "valid", 7 / 3),
        ("mean", "weights", 7 / 4.5),
        ("mean", "size", 7 / 4),
        ("mean", 10, 0.7),
        ("mean", 0.5, 14.0),
    ],
)
def test_reductions(reduction, normalizer, expected):
    """Each reduction and normalizer gives its quotient, and gradients are scaled by the same."""
    request = request_of(
        [0, 1, 2, -100],
        sample_weight=[3, 1, 0.5, 2],
        ignore_index=-100,
        reduction=reduction,
        normalizer=normalizer,
    )
    weighting = weigh(request)
    assert weighting.weight.tolist() == [3, 1, 0.5, 0]
    loss = reduce(request, weighting, WEIGHTED)
    assert loss.shape == ()
    assert loss.dtype == np.float32
    assert float(loss) == pytest.approx(expected, rel=1e-7)
    np.testing.assert_allclose(weighting.scale, np.array([3, 1, 0.5, 0]) * (expected / 7))


def test_none_reduces_nothing():
    """Reduction "none" has no scalar and scales gradients by the sample weights alone."""
    request = request_of([0, 1], sample_weight=[2, 3])
    assert reduce(request, weigh(request), np.float32([1, 1])) is None
    assert weigh(request).scale.tolist() == [2, 3]


@pytest.mark.parametrize(
    ("ids", "options"),
    [
        ([9, 9], {"ignore_index": 9}),
        ([0, 1], {"sample_weight": [0, 0], "normalizer": "weights"}),
        ([0, 1], {"normalizer": 0}),
        (np.zeros(0, np.int64), {"normalizer": "size"}),
    ],
    ids=["all ignored", "no weight", "divisor 0", "no rows"],
)
def test_mean_over_nothing(ids, options):
    """A divisor of zero makes NaN, or 0 with gradients 0 where that was asked for."""
    losses = np.ones(len(ids), np.float32)
    nan = request_of(ids, reduction="mean", empty_mean="nan", **options)
    assert np.isnan(reduce(nan, weigh(nan), losses))
    zero = request_of(ids, reduction="mean", empty_mean="zero", **options)
    assert reduce(zero, weigh(zero), losses) == 0
    assert weigh(zero).no_grad.all()


def test_weights_broadcast_over_examples():
    """Sample weights broadcast to the examples, rows in row-major order."""
    request = request_of([[0, 1, 2], [0, 1, 2]], sample_weight=[[1], [2]])
    assert weigh(request).weight.tolist() == [1, 1, 1, 2, 2, 2]


def test_mean_of_many_equal_losses():
    """The mean over 10^7 losses of 0.1 is 0.1 to 1e-7; a float32 sum would be off by 8%."""
    per_example = np.full(10**7, 0.1, np.float32)
    request = LossRequest(
        LossCall(reduction="mean"),
        np.zeros((10**7, 1), np.float16),
        1,
        np.zeros(10**7, np.int8),
        "ids",
    )
    assert float(reduce(request, weigh(request), per_example)) == pytest.approx(0.1, rel=1e-7)


def test_ids_of_any_integer_dtype():
    """Ids beyond int64 are seen as out of range, not wrapped into it."""
    ids = np.array([2**64 - 1, 1], np.uint64)
    request = request_of(ids)
    request = LossRequest(
        LossCall(loss=SoftmaxCrossEntropy(out_of_range="nan")), request.logits, 1, ids, "ids"
    )
    weighting = weigh(request)
    assert weighting.ids.tolist() == [0, 1]
    assert np.isnan(weighting.weight[0])
    assert weighting.weight[1] == 1


def test_reduction_of_double_losses_is_double():
    """float64 losses give a float64 loss."""
    request = request_of([0, 1], reduction="sum")
    assert reduce(request, weigh(request), np.float64([0.1, 0.2])) == 0.1 + 0.2


def test_what_has_no_loss_is_not_reduced():
    """Softmax is softmax whatever reduction came with it: its rows sum to 1."""
    logits = np.zeros((4, 2), np.float32)
    request = LossRequest(LossCall(Softmax(), reduction="mean"), logits, 1, None, "none")
    assert weigh(request).scale.tolist() == [1.0] * 4


def test_infinite_losses_of_either_sign_are_no_warning():
    """Their sum is NaN, as arithmetic says; warnings are errors here."""
    call = LossCall(SequenceLoss(), axis=2)
    weights = np.float32([[1, -1]])
    ids = np.zeros((1, 2), np.int64)
    request = LossRequest(call, np.zeros((1, 2, 3)), 2, ids, "ids", sample_weight=weights)
    loss = reduce(request, weigh(request), np.asarray([np.inf, -np.inf]))
    assert np.isnan(loss)
