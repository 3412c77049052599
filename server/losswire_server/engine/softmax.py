"""Softmax of a tile, and what the losses over it share.

With j the first largest logit of a row, t = Σ_{c≠j} exp(z_c - z_j):

    p_c = exp(z_c - z_j) / (1 + t),   lse = z_j + log(1 + t)

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

from losswire_server.engine.layout import Places, peaks, row_sums
from losswire_server.engine.operands import RowResults

if TYPE_CHECKING:
    from collections.abc import Callable

    from losswire_proto.dtypes import Array
    from losswire_server.engine.operands import Operands
    from losswire_server.rows import Float64s, Int64s

SURE: Final = 2.0**-18
"""The t below which it is formed in float64. A float32 difference of 16 or more is off by up to
2^-20, and so is its exponential; e^-16 is 2^-23, and above 2^-18 such terms have no weight."""


@dataclass(frozen=True, slots=True)
class SoftmaxTile:
    """What the softmax of a tile is made of.

    Attributes:
        peak: j, the first largest logit of each row.
        places: of j, for picking from arrays of the tile.
        top: z_j.
        tail: t, NaN where the row has no softmax.
        exp: exp(z - z_j), exactly 1 at j.
        shifted: z - z_j; lost where it was computed in the place of `exp`.
        total: 1 + t.
    """

    peak: Int64s
    places: Places
    top: Float64s
    tail: Float64s
    exp: Array
    shifted: Array
    total: Float64s

    @property
    def log_total(self) -> Float64s:
        """log(1 + t), that is lse - z_j."""
        log_total: Float64s = np.log1p(self.tail)
        return log_total

    def write_probabilities(self, scale: Float64s, out: Array) -> None:
        """Writes scale * p into `out`, which may be `exp`."""
        factor = (scale / self.total).astype(self.exp.dtype)
        np.multiply(self.exp, factor[:, None], out=out)

    def write_gradient(self, labels: Array, mass: Float64s, scale: Float64s, out: Array) -> None:
        """Writes scale * (mass * p - labels) into `out`, which may be `exp`, not `labels`.

        At j, where mass * p and the label may be nearly equal, the difference is formed from t.
        """
        at_peak = (mass - self.places.of(labels)) - mass * self.tail / self.total
        self.write_probabilities(scale * mass, out)
        subtract_rows(out, scale, labels)
        self.places.put(out, scale * at_peak)


def softmax_tile(
    logits: Array, shifted: Array, exp: Array, look: Callable[[Array], None] | None = None
) -> SoftmaxTile:
    """Computes z - z_j into `shifted` and its exponentials into `exp`, which may be one array.

    `look` is shown z - z_j before the exponentials may take its place.
    """
    peak, top = peaks(logits)
    places = Places(peak, logits.shape)
    np.subtract(logits, top[:, None], out=shifted)
    if look is not None:
        look(shifted)
    np.exp(shifted, out=exp)
    places.put(exp, 0)
    tail = row_sums(exp)
    if exp.dtype != np.float64:
        _widen_sure_rows(logits, peak, top, tail, exp)
    places.put(exp, 1)
    if not np.isfinite(top.sum()):
        tail[~np.isfinite(top)] = np.nan
        top[np.isnan(top)] = np.nan  # one NaN for all, whichever of a row's was found
    return SoftmaxTile(peak, places, top.astype(np.float64), tail, exp, shifted, 1.0 + tail)


def _widen_sure_rows(logits: Array, peak: Int64s, top: Array, tail: Float64s, exp: Array) -> None:
    """Forms t and the exponentials of rows with t < SURE in float64."""
    sure = np.flatnonzero(tail < SURE)
    if sure.size:
        wide = np.exp(logits[sure].astype(np.float64) - top[sure, None])
        wide[np.arange(sure.size), peak[sure]] = 0
        tail[sure] = row_sums(wide)
        exp[sure] = wide


def subtract_rows(out: Array, scale: Float64s, values: Array) -> None:
    """Takes scale * values, one scale for each row, off `out`; block by block, without a copy.

    Values are `[rows, classes]`, or `[classes]` for all rows alike.
    """
    factor = scale.astype(out.dtype)[:, None]
    step = max(1, (1 << 16) // out.shape[1])
    for start in range(0, out.shape[0], step):
        block = slice(start, start + step)
        part = values if values.ndim == 1 else values[block]
        out[block] -= factor[block] * part


def softmax(operands: Operands) -> RowResults:
    """Softmax itself."""
    exp = operands.scratch()
    tile = softmax_tile(operands.logits, exp, exp)
    tile.write_probabilities(operands.scale, exp)
    exp[np.isnan(tile.tail)] = np.nan
    return RowResults(None)


def log_softmax(operands: Operands) -> RowResults:
    """Its logarithm, z - lse, never by way of p."""
    out = operands.scratch()
    tile = softmax_tile(operands.logits, out, operands.buffer())
    np.subtract(out, tile.log_total.astype(out.dtype)[:, None], out=out)
    out[np.isnan(tile.tail)] = np.nan
    return RowResults(None)
