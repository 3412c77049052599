"""What each row counts for: weights, ignored rows, divisors, and the final sum.

All of it follows from labels and weights alone, so it is known before the first logit is read and
a mean needs no second pass over the gradient. Shared by all engines; the sums run here in float64,
over whole requests, so that no batching or splitting can change a bit of them.

With s the sample weights and m = 0 for ignored rows, 1 for the others:

    per_example_i = s_i * m_i * l_i
    sum           = Σ per_example_i
    mean          = sum / divisor,   divisor = Σ m_i (valid) | Σ s_i * m_i (weights)
                                               | number of rows (size) | the caller's number
    d loss / d z_i = scale_i * d l_i / d z_i,   scale_i = s_i * m_i [/ divisor]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from losswire_proto import rules

if TYPE_CHECKING:
    from losswire_proto.dtypes import Array
    from losswire_server.requests import LossRequest

Float64s: TypeAlias = npt.NDArray[np.float64]
Int64s: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Weighting:
    """What each row of a request counts for, rows in row-major order of the examples.

    Attributes:
        ids: the class of each row, safe to index with (0 where the row is ignored or invalid);
            None for distributions.
        weight: what each loss is multiplied by; NaN for rows whose id is out of range and shall
            be NaN.
        scale: what each gradient is multiplied by.
        no_loss: rows whose loss is 0 whatever their logits hold; None for none.
        no_grad: the same for gradients: ignored rows, or all of a mean over nothing that is 0.
        divisor: of the mean; 1 for other reductions.
        is_empty_zero: the mean is over nothing, and that shall be 0.
    """

    ids: Int64s | None
    weight: Float64s
    scale: Float64s
    no_loss: Bools | None
    no_grad: Bools | None
    divisor: float
    is_empty_zero: bool


def weigh(request: LossRequest) -> Weighting:
    """Derives the weighting of a request from its labels and sample weights."""
    call = request.call
    ids, ignored, invalid = _rows_of_ids(request)
    weight = np.ones(request.rows)
    if request.sample_weight is not None:
        weight[:] = np.broadcast_to(request.sample_weight, request.example_shape).reshape(-1)
    if ignored is not None:
        weight[ignored] = 0.0
    divisor = 1.0
    if call.reduction == "mean":
        divisor = _divisor(call.normalizer, weight, ignored)
    if invalid is not None:
        weight[invalid] = np.nan
    is_empty_zero = divisor == 0.0 and call.empty_mean == "zero"
    if divisor == 0.0:
        scale = np.full_like(weight, np.nan)
    else:
        scale = weight if divisor == 1.0 else weight / divisor
    no_grad = np.ones(request.rows, np.bool_) if is_empty_zero else ignored
    return Weighting(ids, weight, scale, ignored, no_grad, divisor, is_empty_zero)


def reduce(request: LossRequest, weighting: Weighting, per_example: Array) -> Array | None:
    """The reduced loss of a request, in the dtype of its losses; None for reduction "none"."""
    if request.call.reduction == "none":
        return None
    if weighting.is_empty_zero:
        return np.zeros((), per_example.dtype)
    # As one float64 array, not by the `dtype` argument of `sum`: that would convert piecewise and
    # give up pairwise summation over the whole.
    total = per_example.reshape(-1).astype(np.float64, copy=False).sum()
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        loss = total / weighting.divisor if weighting.divisor else np.float64(np.nan)
        return np.asarray(loss, per_example.dtype)


def _divisor(normalizer: str | float, weight: Float64s, ignored: Bools | None) -> float:
    match normalizer:
        case "valid":
            return float(weight.size if ignored is None else weight.size - ignored.sum())
        case "weights":
            return float(weight.sum())
        case "size":
            return float(weight.size)
        case _:
            return float(normalizer)


def _rows_of_ids(request: LossRequest) -> tuple[Int64s | None, Bools | None, Bools | None]:
    """Ids that are safe to index with, the rows that are ignored, and those that shall be NaN."""
    if request.ids is None:
        return None, None, None
    loss = request.call.loss
    raw = request.ids.reshape(-1)
    ignored: Bools | None = None
    if loss.ignore_index is not None:
        ignored = raw == loss.ignore_index
    outside = rules.out_of_range(raw, request.classes, loss.ignore_index)
    invalid: Bools | None = None
    if outside is not None and loss.out_of_range == "ignore":
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
