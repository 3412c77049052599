"""Softmax of a tile, and what the losses over it share.

With j the first largest logit of a row, t = Σ_{c≠j} exp(z_c - z_j):

    p_c = exp(z_c - z_j) / (1 + t),   lse = z_j + log(1 + t)

Leaving the largest term out of the sum is what keeps confident rows exact: their loss is about t
and their largest gradient -t / (1 + t), both lost if 1 + t is formed and 1 taken off again. The
same goes for z_j - z_y, never lse - z_y: large common offsets would cancel. The few values per row
are float64; only arrays of `[rows, classes]` are in the compute dtype. Rows so sure that t comes
from logits far below z_j, where the rounding of z_c - z_j alone would cost t its sixth digit, form
it in float64.

Where nothing but exponentials is asked for, rows with 0 <= z_j <= CALM are not shifted at all: e^z
does not overflow, keeps what e^(z - z_j) would keep and rounds once less, and a pass over the tile
is saved. All of such a row is e^z_j times as large, and so is what it is divided by.

A row that holds NaN or +inf, or nothing but -inf, has no softmax: all of it becomes NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from losswire_server.engine.layout import Places, is_by_class, peaks, row_sums, weighted_sums
from losswire_server.engine.operands import RowResults

if TYPE_CHECKING:
    from collections.abc import Callable

    from losswire_proto.dtypes import Array
    from losswire_server.engine.operands import Operands
    from losswire_server.rows import Float64s, Int64s

SURE: Final = 2.0**-18
"""The t below which shifted rows form it in float64. A float32 difference of 16 or more is off by
up to 2^-20, and so is its exponential; e^-16 is 2^-23, and above 2^-18 such are light."""

CALM: Final = 64.0
"""The z_j up to which rows need no shift. Float32 holds the sum of a million classes of e^64."""

ROUGH: Final = 4.0
"""How much larger than its result a difference may be that is taken after a sum of float32."""

_SMALL: Final = 2.0**-100
"""No factor of exponentials is smaller than this: float32 ends at 2^-126."""


@dataclass(frozen=True, slots=True)
class SoftmaxTile:
    """What the softmax of a tile is made of.

    Attributes:
        places: of j, the first largest logit of each row.
        top: z_j.
        tail: t, NaN where the row has no softmax.
        exp: unit * exp(z - z_j), exactly `unit` at j.
        unit: of each row; None is 1 for all of them.
        shifted: z - z_j + left; lost where it was computed in the place of `exp`.
        left: what of z_j is still there, row by row: 0 where rows have been shifted, z_j elsewhere.
        total: 1 + t.
    """

    places: Places
    top: Float64s
    tail: Float64s
    exp: Array
    unit: Float64s | None
    shifted: Array
    left: Float64s | float
    total: Float64s

    @property
    def log_total(self) -> Float64s:
        """log(1 + t), that is lse - z_j."""
        log_total: Float64s = np.log1p(self.tail)
        return log_total

    def exp_at(self, places: Places) -> Float64s:
        """exp(z - z_j) at one class of each row; exactly 1 at j."""
        exp = places.of(self.exp)
        return exp.astype(np.float64) if self.unit is None else exp / self.unit

    def entropy(self, buffer: Array) -> Float64s:
        """log(1 + t) - Σ_c p_c * (z_c - z_j), from `exp` and `shifted`; `buffer` is written.

        Rows that keep z_j lose as many digits as z_j * t / (1 + t), which comes off the sum last,
        is larger than what remains. That is log(1 + t) at least; where this is too little, the tile
        is shifted after all.
        """
        log_total, left, values = self.log_total, self.left, self.shifted
        is_rough = left * self.tail > ROUGH * self.total * log_total
        if is_rough.any():
            shift = np.where(is_rough, left, 0.0).astype(values.dtype)
            values = np.subtract(values, shift[:, None], out=buffer)
            left = np.where(is_rough, 0.0, left)
        if self.unit is None:
            dot = weighted_sums(self.exp, values, buffer)
        else:
            self.places.put(self.exp, 0)
            dot = weighted_sums(self.exp, values, buffer)
            self.places.put(self.exp, self.unit)
            dot /= self.unit
            dot -= left * self.tail
        entropy: Float64s = log_total - dot / self.total
        return entropy

    def less_one(self, exp: Float64s) -> Float64s:
        """p - 1 of the classes whose exp(z - z_j) is given; -t / (1 + t) at j: nothing cancels."""
        less_one: Float64s = exp - 1.0
        less_one -= self.tail
        less_one /= self.total
        return less_one

    def write_probabilities(self, scale: Float64s, out: Array) -> None:
        """Writes scale * p into `out`, which may be `exp`."""
        exp, factor = self.exp, scale / self.total
        if self.unit is not None:
            factor /= self.unit
            # Of rows without a softmax the factor is NaN, which `minimum` would not see past.
            if np.fmin.reduce(factor, initial=1.0) < _SMALL:
                exp, factor = self._in_two(self.unit, scale, factor, out)
        np.multiply(exp, factor.astype(out.dtype)[:, None], out=out)

    def _in_two(
        self, unit: Float64s, scale: Float64s, factor: Float64s, out: Array
    ) -> tuple[Array, Float64s]:
        """`exp` with a part of the factor in it, where all of it is too small for the dtype."""
        is_small = (np.abs(factor) < _SMALL) & (factor != 0)
        if not is_small.any():
            return self.exp, factor
        first = np.where(is_small, 1 / unit, 1).astype(out.dtype)
        np.multiply(self.exp, first[:, None], out=out)
        return out, np.where(is_small, scale / self.total, factor)

    def write_gradient(self, labels: Array, mass: Float64s, scale: Float64s, out: Array) -> None:
        """Writes scale * (mass * p - labels) into `out`, which may be `exp`, not `labels`.

        At j, where mass * p and the label may be nearly equal, the difference is formed from t.
        """
        at_peak = (mass - self.places.of(labels)) - mass * self.tail / self.total
        self.write_probabilities(scale * mass, out)
        subtract_rows(out, scale, labels)
        self.places.put(out, scale * at_peak)


def softmax_tile(
    logits: Array,
    shifted: Array,
    exp: Array,
    look: Callable[[Array, Float64s | float], None] | None = None,
    *,
    is_shifted: bool = True,
) -> SoftmaxTile:
    """Computes z - z_j into `shifted` and its exponentials into `exp`, which may be one array.

    Where `shifted` need not be, rows may keep z_j; if all do, the logits are in the place of
    `shifted`. `look` is shown what is exponentiated, before the exponentials may take its place,
    and what of z_j is left in it.
    """
    places, top = peaks(logits)
    top64 = top.astype(np.float64)
    shift: Array | None = top
    unit = None
    if not is_shifted and not is_by_class(logits.shape[1]):
        shift, unit = _calmed(top, top64)
    shifted = logits if shift is None else np.subtract(logits, shift[:, None], out=shifted)
    left = 0.0 if unit is None else top64 if shift is None else top64 - shift
    if look is not None:
        look(shifted, left)
    np.exp(shifted, out=exp)
    places.put(exp, 0)
    tail = row_sums(exp)
    if unit is not None:
        tail /= unit
    if shift is not None:
        if exp.dtype != np.float64:
            _widen_sure_rows(logits, places.classes, top, shift, tail, exp)
        if not np.isfinite(np.add.reduce(top64)):
            tail[~np.isfinite(top64)] = np.nan
            top64[np.isnan(top64)] = np.nan  # one NaN for all, whichever of a row's was found
    places.put(exp, 1 if unit is None else unit)
    return SoftmaxTile(places, top64, tail, exp, unit, shifted, left, 1.0 + tail)


def _calmed(top: Array, top64: Float64s) -> tuple[Array | None, Float64s]:
    """What to take off each row, None where that is nothing; and exp(z_j) of what is left.

    Few classes are better off without: there the rows' exponentials cost what the pass would.
    """
    shift = None
    if not (np.minimum.reduce(top, initial=0) >= 0 and np.maximum.reduce(top, initial=0) <= CALM):
        is_calm = (top >= 0) & (top <= CALM)
        shift = np.where(is_calm, top.dtype.type(0), top)
        top64 = np.where(is_calm, top64, 0)
    unit: Float64s = np.exp(top64)
    return shift, unit.astype(top.dtype).astype(np.float64)


def _widen_sure_rows(
    logits: Array, peak: Int64s, top: Array, shift: Array, tail: Float64s, exp: Array
) -> None:
    """Forms t and the exponentials of shifted rows with t < SURE in float64."""
    sure = np.flatnonzero(tail < SURE)
    sure = sure[shift[sure] != 0]
    if sure.size:
        wide = np.exp(logits[sure].astype(np.float64) - top[sure, None])
        wide[np.arange(sure.size), peak[sure]] = 0
        tail[sure] = row_sums(wide)
        exp[sure] = wide


def subtract_rows(out: Array, scale: Float64s, values: Array) -> None:
    """Takes scale * values, one scale for each row, off `out`; block by block, without a copy.

    Values are `[rows, classes]`, `[classes]` for all rows alike, or one for all.
    """
    factor = scale.astype(out.dtype)[:, None]
    if values.size == 1:
        out -= factor * values
        return
    step = max(1, (1 << 16) // out.shape[1])
    for start in range(0, out.shape[0], step):
        block = slice(start, start + step)
        part = values if values.ndim == 1 else values[block]
        out[block] -= factor[block] * part


def softmax(operands: Operands) -> RowResults:
    """Softmax itself."""
    exp = operands.scratch()
    tile = softmax_tile(operands.logits, exp, exp, is_shifted=False)
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
