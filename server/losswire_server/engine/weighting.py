"""What each row counts for: weights, ignored rows, divisors, and the final sum.

All of it follows from labels and weights alone, so it is known before the first logit is read and
a mean needs no second pass over the gradient. Shared by all engines; the sums run here in float64,
over whole requests, so that no batching or splitting can change a bit of them.

With s the sample weights, w the class weights (inside l already) and m = 0 for ignored rows, 1 for
the others:

    per_example_i = s_i * m_i * l_i
    sum           = Σ per_example_i
    mean          = sum / divisor,   divisor = Σ m_i (valid) | Σ s_i * m_i * w_{y_i} (weights)
                                               | number of rows (size) | the caller's number
    d loss / d z_i = scale_i * d l_i / d z_i,   scale_i = s_i * m_i [/ divisor]

sequence_loss divides by Σ s_i + 1e-12 instead, over time, batch or both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from losswire_proto import dtypes, rules
from losswire_proto.losses import SequenceLoss
from losswire_server.rows import LossSum, Weighting

if TYPE_CHECKING:
    from losswire_proto.dtypes import Array
    from losswire_server.requests import LossRequest
    from losswire_server.rows import Bools, Float64s, Int64s

SEQUENCE_EPSILON: Final = 1e-12
"""What sequence_loss adds to the sum of the weights, so that padding alone gives 0."""


_quiet: Final = np.errstate(all="ignore")
"""Weights, losses and divisors may be what they like; their NaN and inf are results, not faults."""


@_quiet
def weigh(request: LossRequest) -> Weighting:
    """Derives the weighting of a request from its labels and weights."""
    call = request.call
    ids, ignored, invalid = _rows_of_ids(request)
    weight = _sample_weight(request)
    if ignored is not None or invalid is not None:
        weight = weight.copy()
    if ignored is not None:
        weight[ignored] = 0.0
    if isinstance(call.loss, SequenceLoss):
        return _weigh_sequences(request, call.loss, ids, weight)
    divisor = 1.0
    # What has no loss has nothing to reduce: its output is what it is.
    if call.reduction == "mean" and request.reading != "none":
        divisors = _divisors(request, ids, weight, ignored)
        if request.parts > 1:
            return _weigh_means(request, ids, weight, ignored, invalid, divisors)
        divisor = float(divisors[0])
    if invalid is not None:
        weight[invalid] = np.nan
    scale = _all(np.nan, request.rows) if divisor == 0.0 else _divided(weight, divisor)
    is_empty_zero = divisor == 0.0 and call.empty_mean == "zero"
    no_grad = np.broadcast_to(np.True_, (request.rows,)) if is_empty_zero else ignored
    return Weighting(
        ids, weight, scale, ignored, no_grad, divisor, is_empty_zero, is_scale_nan=divisor == 0.0
    )


def _weigh_means(
    request: LossRequest,
    ids: Int64s | None,
    weight: Float64s,
    ignored: Bools | None,
    invalid: Bools | None,
    divisors: Float64s,
) -> Weighting:
    """The same for means of several requests, each with its own divisor."""
    if invalid is not None:
        weight[invalid] = np.nan
    is_empty = divisors == 0.0
    scale = weight.reshape(request.parts, -1) / divisors[:, None]
    no_grad = ignored
    if is_empty.any():
        scale[is_empty] = np.nan
        if request.call.empty_mean == "zero":
            no_grad = _either(np.repeat(is_empty, scale.shape[1]), ignored)
    is_nan = bool(is_empty.any())
    return Weighting(
        ids, weight, scale.reshape(-1), ignored, no_grad, divisors, is_scale_nan=is_nan
    )


@_quiet
def reduce(request: LossRequest, weighting: Weighting, per_example: Array) -> Array | None:
    """The reduced loss of a request, in the dtype of its losses; None for reduction "none"."""
    loss = request.call.loss
    if isinstance(loss, SequenceLoss):
        return _reduce_sequences(request, loss, weighting, per_example)
    if request.call.reduction == "none":
        return None
    if request.parts > 1:
        return _reduce_parts(request, weighting, per_example)
    total = LossSum()
    total.add(per_example)
    return reduced(request, weighting, total)


@_quiet
def reduced(request: LossRequest, weighting: Weighting, total: LossSum) -> Array:
    """The loss that a sum of per-example losses becomes."""
    dtype = dtypes.compute_dtype(request.logits.dtype)
    if weighting.is_empty_zero:
        return np.zeros((), dtype)
    mean = total.value() / weighting.divisor if weighting.divisor else np.nan
    return np.asarray(mean, dtype)


def _reduce_parts(request: LossRequest, weighting: Weighting, per_example: Array) -> Array:
    """The loss of each of several requests, summed in the order of `LossSum`.

    They are small, so that a sum of theirs has one portion.
    """
    sums = per_example.reshape(request.parts, -1).astype(np.float64).sum(axis=1)
    means = sums[:, None].sum(axis=1) / weighting.divisor
    if request.call.reduction == "mean":
        empty = 0.0 if request.call.empty_mean == "zero" else np.nan
        means[np.asarray(weighting.divisor) == 0.0] = empty
    dtype = dtypes.compute_dtype(request.logits.dtype)
    losses: Array = means.astype(dtype)
    return losses


def _all(value: float, rows: int) -> Float64s:
    """The same for all rows, without memory for each; `broadcast_to` takes three times as long."""
    return np.ndarray((rows,), np.float64, np.float64(value).tobytes(), strides=(0,))


def _total(weight: Float64s) -> float:
    """The sum; of one number for all rows, without going through them: there may be 2**57."""
    if weight.size and weight.strides == (0,):
        return float(weight[0]) * weight.size
    return float(weight.sum())


def _divided(weight: Float64s, divisor: float) -> Float64s:
    if weight.size and weight.strides == (0,):
        return _all(float(weight[0]) / divisor, weight.size)
    return weight if divisor == 1.0 else weight / divisor


def _sample_weight(request: LossRequest) -> Float64s:
    if request.sample_weight is None:
        return _all(1.0, request.rows)
    weight = request.sample_weight.astype(np.float64)
    return np.broadcast_to(weight, request.example_shape).reshape(-1)


def _divisors(
    request: LossRequest, ids: Int64s | None, weight: Float64s, ignored: Bools | None
) -> Float64s:
    """What the mean of each part is divided by."""
    size = float(request.rows // request.parts)
    match request.call.normalizer:
        case "valid":
            if ignored is not None:
                counted: Float64s = size - ignored.reshape(request.parts, -1).sum(axis=1)
                return counted
        case "weights":
            if request.class_weight is not None and ids is not None:
                weight = weight * request.class_weight.astype(np.float64)[ids]
            if request.parts == 1:
                return np.asarray([_total(weight)])
            sums: Float64s = weight.reshape(request.parts, -1).sum(axis=1)
            return sums
        case "size":
            pass
        case value:
            size = float(value)
    return np.full(request.parts, size)


def _sequence_axes(loss: SequenceLoss) -> tuple[int, ...]:
    """What is averaged over: batch (axis 0), time (axis 1), both or none."""
    batch = (0,) if loss.average_across_batch else ()
    return batch + ((1,) if loss.average_across_timesteps else ())


def _weigh_sequences(
    request: LossRequest, loss: SequenceLoss, ids: Int64s | None, weight: Float64s
) -> Weighting:
    axes = _sequence_axes(loss)
    weights = weight.reshape(request.example_shape)
    divisor = np.ones(())
    if axes:
        divisor = np.asarray(weights.sum(axis=axes, keepdims=True) + SEQUENCE_EPSILON)
    scale = np.broadcast_to(weights / divisor, weights.shape).reshape(-1)
    return Weighting(ids, weight, scale, None, None, divisor)


def _reduce_sequences(
    request: LossRequest, loss: SequenceLoss, weighting: Weighting, per_example: Array
) -> Array | None:
    axes = _sequence_axes(loss)
    if not axes:
        return None
    total = per_example.reshape(request.example_shape).astype(np.float64).sum(axis=axes)
    return np.asarray(total / np.squeeze(weighting.divisor, axes), per_example.dtype)


def _rows_of_ids(request: LossRequest) -> tuple[Int64s | None, Bools | None, Bools | None]:
    """Ids that are safe to index with, the rows that are ignored, and those that shall be NaN."""
    if request.reading != "ids" or request.labels is None:
        return None, None, None
    loss = request.call.loss
    raw = request.labels.reshape(-1)
    ignored: Bools | None = None
    if loss.ignored_id is not None:
        ignored = raw == loss.ignored_id
    outside = rules.out_of_range(raw, request.classes, loss.ignored_id)
    invalid: Bools | None = None
    if outside is not None and loss.bad_ids == "ignore":
        ignored = outside if ignored is None else ignored | outside
    elif outside is not None:
        invalid = outside
    unsafe = _either(ignored, invalid)
    # Masked before the cast: a uint64 id may not fit int64.
    ids = raw if unsafe is None else np.where(unsafe, raw.dtype.type(0), raw)
    return ids.astype(np.int64, copy=False), ignored if _any(ignored) else None, invalid


def _either(a: Bools | None, b: Bools | None) -> Bools | None:
    if a is None or b is None:
        return b if a is None else a
    return a | b


def _any(mask: Bools | None) -> bool:
    return mask is not None and bool(mask.any())
