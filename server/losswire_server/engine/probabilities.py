"""Losses on probabilities, as Keras defines them with from_logits=False.

    categorical  n = p / Σp, c = clip(n, ε, 1-ε), l = -Σ q * log(c)      ("normalize_first")
                 c = clip(p, ε, 1-ε), n = c / Σc, l = -Σ q * log(n)      ("clip_first")
    binary       c = clip(p, ε, 1-ε), l = -(y * log(c) + (1-y) * log(1-c))

q is the label, a one-hot row for a class id, smoothed to q * (1-a) + a/C; y is smoothed to
y * (1-a) + a/2. Gradients go through all steps; that of clip is 1 within its bounds, 0 outside.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from losswire_server.engine.layout import Places, row_sums, scale_rows, weighted_sums
from losswire_server.engine.operands import RowResults
from losswire_server.engine.sigmoid import smooth

if TYPE_CHECKING:
    from losswire_proto.dtypes import Array
    from losswire_proto.losses import BinaryCrossEntropy, CategoricalCrossEntropy
    from losswire_server.engine.operands import Operands


def categorical_cross_entropy(operands: Operands) -> RowResults:
    """Loss and gradient of a tile."""
    loss, p = cast("CategoricalCrossEntropy", operands.loss), operands.logits
    bounds = loss.epsilon, 1.0 - loss.epsilon
    is_clipped_last = loss.clip_order == "normalize_first"
    q = _distribution(operands, loss.label_smoothing)
    n, logs = operands.buffer(), operands.buffer()
    if is_clipped_last:
        total = row_sums(p).astype(p.dtype)[:, None]
        np.divide(p, total, out=n)
        low, high = n < bounds[0], n > bounds[1]
        _log_clipped(n, low, high, loss.epsilon, logs)
    else:
        np.clip(p, *bounds, out=n)
        total = row_sums(n).astype(p.dtype)[:, None]
        np.divide(n, total, out=n)
        low, high = p < bounds[0], p > bounds[1]
        np.log(n, out=logs)
    losses = -weighted_sums(q, logs, logs)
    if operands.dense is not None:
        # -d l / d n, then through n = x / Σx: (Σ dn * n - dn) / Σx
        grad = np.divide(q, n, out=operands.dense)
        if not loss.epsilon:
            _put(grad, 0, q == 0)  # 0 / 0
        if is_clipped_last:
            _put(grad, 0, low | high)
        mean = weighted_sums(grad, n, logs).astype(p.dtype)
        np.subtract(mean[:, None], grad, out=grad)
        grad *= (operands.scale[:, None] / total).astype(grad.dtype)
        if not is_clipped_last:
            _put(grad, 0, low | high)
    return RowResults(losses)


def _log_clipped(p: Array, low: Array, high: Array, epsilon: float, out: Array) -> None:
    """log(clip(p, ε, 1-ε)) into `out`; the bounds' logarithms are formed in float64.

    In float32 the nearest number to 1 - 1e-7 is 1 - 1.2e-7, a fifth off in the logarithm.
    """
    np.log(p, out=out)
    _put(out, np.log(epsilon) if epsilon else -np.inf, low)
    _put(out, np.log1p(-epsilon), high)


def _put(out: Array, value: float, mask: Array) -> None:
    """Writes `value` where the mask is set; most masks are not, and looking is cheap."""
    if mask.any():
        np.copyto(out, value, where=mask)


def _distribution(operands: Operands, smoothing: float) -> Array:
    """The labels as distributions, smoothed."""
    if operands.ids is None and not smoothing:
        return operands.labels
    q = operands.buffer()
    if operands.ids is None:
        np.multiply(operands.labels, 1.0 - smoothing, out=q)
    else:
        q[...] = 0
        Places(operands.ids, q.shape).put(q, 1.0 - smoothing)
    if smoothing:
        q += smoothing / q.shape[1]
    return q


def binary_cross_entropy(operands: Operands) -> RowResults:
    """Loss and gradient of a tile, element by element."""
    loss = cast("BinaryCrossEntropy", operands.loss)
    p, y, epsilon, smoothing = operands.logits, operands.labels, loss.epsilon, loss.label_smoothing
    not_y = np.subtract(1, y, out=operands.buffer())
    if smoothing:
        y = smooth(y, smoothing, operands.buffer())
        not_y = smooth(not_y, smoothing, not_y)
    low, high = p < epsilon, p > 1.0 - epsilon
    positive, negative = operands.buffer(), operands.buffer()
    _log_clipped(p, low, high, epsilon, positive)
    np.multiply(y, positive, out=positive)
    np.log1p(np.negative(p, out=negative), out=negative)
    _put(negative, np.log1p(-epsilon), low)
    _put(negative, np.log(epsilon) if epsilon else -np.inf, high)
    np.multiply(not_y, negative, out=negative)
    _absent(positive, y, epsilon)
    _absent(negative, not_y, epsilon)
    losses = np.add(positive, negative, out=operands.buffer())
    np.negative(losses, out=losses)
    if operands.dense is not None:
        up = np.subtract(1, p, out=negative)
        np.divide(not_y, up, out=up)
        down = np.divide(y, p, out=positive)
        _absent(up, not_y, epsilon)
        _absent(down, y, epsilon)
        grad = np.subtract(up, down, out=operands.dense)
        scale_rows(grad, operands.scale)
        _put(grad, 0, low | high)
    return RowResults(losses.reshape(-1))


def _absent(terms: Array, labels: Array, epsilon: float) -> None:
    """Terms of a label 0 are 0, also those of log(0), which only an epsilon of 0 lets through."""
    if not epsilon:
        _put(terms, 0, labels == 0)
