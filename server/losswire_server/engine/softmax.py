"""Softmax cross-entropy of one tile: the formulas, in their order.

In: logits `[rows, classes]` that fit the cache, labels, what each row counts for. Out: losses
`[rows]` in float64 and, where wanted, gradients, written once. Every operation treats each row by
itself and in an order that depends on the number of classes alone, so a row's result has the same
bits in any tile of any batch.

With j the first largest logit of a row, t = Σ_{c≠j} exp(z_c - z_j) and lse = z_j + log(1 + t):

    ids            l = log1p(t) + (z_j - z_y)          dz = p - onehot(y)
    distributions  l = Σ_c q_c * (log1p(t) + z_j - z_c)  dz = p * Σq - q   ("tf": p - q)
                   dq = lse - z
    p_c = exp(z_c - z_j) / (1 + t)

Leaving the largest term out of the sum is what keeps confident rows exact: their loss is about t
and their largest gradient -t / (1 + t), both lost if 1 + t is formed and 1 taken off again. The
same goes for z_j - z_y, never lse - z_y: large common offsets would cancel. The few values per row
are float64; only arrays of `[rows, classes]` are in the compute dtype. Rows so sure that t comes
from logits far below z_j, where the rounding of z_c - z_j alone would cost t its sixth digit, form
it in float64.

A row that holds NaN or +inf, or nothing but -inf, has no softmax: all of it becomes NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from losswire_proto.dtypes import Array
    from losswire_server.engine.weighting import Float64s, Int64s

SURE: Final = 2.0**-18
"""The t below which it is formed in float64. A float32 difference of 16 or more is off by up to
2^-20, and so is its exponential; e^-16 is 2^-23, and above 2^-18 such terms have no weight."""


@dataclass(slots=True)
class SoftmaxTile:
    """What a tile's softmax is made of; `exp` and `shifted` are scratch of the caller's.

    Attributes:
        rows: 0, 1, 2, … for picking one element per row.
        peak: j, the first largest logit of each row.
        top: z_j.
        tail: t, NaN where the row has no softmax.
        exp: exp(z - z_j), but 0 at j.
    """

    rows: Int64s
    peak: Int64s
    top: Float64s
    tail: Float64s
    exp: Array

    @property
    def log_total(self) -> Float64s:
        """log(1 + t), that is lse - z_j."""
        log_total: Float64s = np.log1p(self.tail)
        return log_total


def softmax_tile(logits: Array, shifted: Array, exp: Array) -> SoftmaxTile:
    """Computes z - z_j into `shifted` and its exponentials into `exp`, which may be one array."""
    rows = np.arange(logits.shape[0])
    peak = logits.argmax(axis=1)
    top = logits[rows, peak]
    np.subtract(logits, top[:, None], out=shifted)
    np.exp(shifted, out=exp)
    exp[rows, peak] = 0
    tail = np.add.reduce(exp, axis=1).astype(np.float64)
    sure = np.flatnonzero(tail < SURE)
    if sure.size and exp.dtype != np.float64:
        wide = np.exp(logits[sure].astype(np.float64) - top[sure, None])
        wide[rows[: sure.size], peak[sure]] = 0
        tail[sure] = np.add.reduce(wide, axis=1)
        exp[sure] = wide
    tail += top - top  # 0, or NaN where the largest logit is not finite
    return SoftmaxTile(rows, peak, top.astype(np.float64), tail, exp)


def with_ids(
    logits: Array, ids: Int64s, scale: Float64s, exp: Array, grad: Array | None
) -> Float64s:
    """Losses of rows with class ids; gradients into `grad`, which may be `exp`."""
    tile = softmax_tile(logits, exp, exp)
    true_exp = tile.exp[tile.rows, ids].astype(np.float64)
    true_logit = logits[tile.rows, ids].astype(np.float64)
    loss = tile.log_total + (tile.top - true_logit)
    if grad is not None:
        _scaled_probabilities(tile, scale, grad)
        # p_y - 1, without the cancellation where p_y is near 1
        is_peak = ids == tile.peak
        at_true = np.where(is_peak, -tile.tail, true_exp - 1.0 - tile.tail) / (1.0 + tile.tail)
        grad[tile.rows, ids] = scale * at_true
    return loss


def with_distributions(
    logits: Array,
    labels: Array,
    scale: Float64s,
    *,
    is_exact: bool,
    buffers: tuple[Array, Array, Array],
    grad: Array | None,
    grad_labels: Array | None,
) -> Float64s:
    """Losses of rows with distributions; gradients into `grad` and `grad_labels`.

    `buffers` are three arrays of the tile's shape; `grad` may be the second, `grad_labels` the
    first of them.
    """
    shifted, exp, product = buffers
    tile = softmax_tile(logits, shifted, exp)
    log_total = tile.log_total
    label_sum = np.add.reduce(labels, axis=1).astype(np.float64)
    np.multiply(labels, shifted, out=product)
    dot = np.add.reduce(product, axis=1)
    if np.isnan(dot).any():
        # 0 * -inf: a class without weight adds nothing, even where it is masked
        np.copyto(product, 0, where=labels == 0)
        dot = np.add.reduce(product, axis=1)
    loss: Float64s = label_sum * log_total - dot
    if grad is not None:
        mass = label_sum if is_exact else np.ones_like(label_sum)
        at_peak = (mass - labels[tile.rows, tile.peak]) - mass * tile.tail / (1.0 + tile.tail)
        _scaled_probabilities(tile, scale * mass, grad)
        np.multiply(labels, scale.astype(labels.dtype)[:, None], out=product)
        np.subtract(grad, product, out=grad)
        grad[tile.rows, tile.peak] = scale * at_peak
    if grad_labels is not None:
        np.subtract(log_total.astype(shifted.dtype)[:, None], shifted, out=grad_labels)
        np.multiply(grad_labels, scale.astype(shifted.dtype)[:, None], out=grad_labels)
    return loss


def _scaled_probabilities(tile: SoftmaxTile, scale: Float64s, out: Array) -> None:
    """Writes scale * p into `out`, which may be `tile.exp`."""
    factor = (scale / (1.0 + tile.tail)).astype(tile.exp.dtype)
    np.multiply(tile.exp, factor[:, None], out=out)
    out[tile.rows, tile.peak] = factor
