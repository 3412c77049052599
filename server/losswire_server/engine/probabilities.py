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

from losswire_server.engine.operands import RowResults
from losswire_server.engine.sigmoid import smooth
from losswire_server.engine.softmax import weighted_sum

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
        total = np.add.reduce(p, axis=1)[:, None]
        np.divide(p, total, out=n)
        outside = (n < bounds[0]) | (n > bounds[1])
        _log_clipped(n, loss.epsilon, logs)
    else:
        np.clip(p, *bounds, out=n)
        total = np.add.reduce(n, axis=1)[:, None]
        np.divide(n, total, out=n)
        outside = (p < bounds[0]) | (p > bounds[1])
        np.log(n, out=logs)
    losses = -weighted_sum(q, logs, logs)
    if operands.dense is not None:
        # -d l / d n, then through n = x / Σx: (Σ dn * n - dn) / Σx
        grad = np.divide(q, n, out=operands.dense)
        np.copyto(grad, 0, where=(q == 0) | outside if is_clipped_last else q == 0)
        mean = np.add.reduce(np.multiply(grad, n, out=logs), axis=1)
        np.subtract(mean[:, None], grad, out=grad)
        grad /= total
        grad *= operands.scale.astype(grad.dtype)[:, None]
        if not is_clipped_last:
            np.copyto(grad, 0, where=outside)
    return RowResults(losses)


def _log_clipped(p: Array, epsilon: float, out: Array) -> None:
    """log(clip(p, ε, 1-ε)) into `out`; the bounds' logarithms are formed in float64.

    In float32 the nearest number to 1 - 1e-7 is 1 - 1.2e-7, a fifth off in the logarithm.
    """
    np.log(p, out=out)
    np.copyto(out, np.log(epsilon) if epsilon else -np.inf, where=p < epsilon)
    np.copyto(out, np.log1p(-epsilon), where=p > 1.0 - epsilon)


def _distribution(operands: Operands, smoothing: float) -> Array:
    """The labels as distributions, smoothed."""
    if operands.ids is None and not smoothing:
        return operands.labels
    q = operands.buffer()
    if operands.ids is None:
        np.multiply(operands.labels, 1.0 - smoothing, out=q)
    else:
        q[...] = 0
        q[np.arange(q.shape[0]), operands.ids] = 1.0 - smoothing
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
    # 0 * log(0) is 0, for an epsilon of 0
    positive, negative = operands.buffer(), operands.buffer()
    _log_clipped(p, epsilon, positive)
    np.multiply(y, positive, out=positive)
    np.copyto(positive, 0, where=y == 0)
    np.log1p(np.negative(p, out=negative), out=negative)
    np.copyto(negative, np.log1p(-epsilon), where=low)
    np.copyto(negative, np.log(epsilon) if epsilon else -np.inf, where=high)
    np.multiply(not_y, negative, out=negative)
    np.copyto(negative, 0, where=not_y == 0)
    losses = -(positive + negative).reshape(-1).astype(np.float64)
    if operands.dense is not None:
        up = np.divide(not_y, 1 - p, out=negative)
        np.copyto(up, 0, where=not_y == 0)
        down = np.divide(y, p, out=positive)
        np.copyto(down, 0, where=y == 0)
        grad = np.subtract(up, down, out=operands.dense)
        grad *= operands.scale.astype(grad.dtype)[:, None]
        np.copyto(grad, 0, where=low | high)
    return RowResults(losses)
