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
from losswire_server.engine.softmax import weighted_sum

if TYPE_CHECKING:
    from losswire_proto.dtypes import Array
    from losswire_proto.losses import BinaryCrossEntropy, CategoricalCrossEntropy
    from losswire_server.engine.operands import Operands


def categorical_cross_entropy(operands: Operands) -> RowResults:
    """Loss and gradient of a tile."""
    loss, p = cast("CategoricalCrossEntropy", operands.loss), operands.logits
    bounds = loss.epsilon, 1.0 - loss.epsilon
    q = _distribution(operands, loss.label_smoothing)
    n, c, product = (operands.buffer() for _ in range(3))
    if loss.clip_order == "normalize_first":
        total = np.add.reduce(p, axis=1)[:, None]
        np.divide(p, total, out=n)
        np.clip(n, *bounds, out=c)
        inside = (n >= bounds[0]) & (n <= bounds[1])
        argument = c
    else:
        np.clip(p, *bounds, out=c)
        total = np.add.reduce(c, axis=1)[:, None]
        np.divide(c, total, out=n)
        inside = (p >= bounds[0]) & (p <= bounds[1])
        argument = n
    np.log(argument, out=product)
    losses = -weighted_sum(q, product, product)
    if operands.dense is not None:
        # d l / d n, then through n = x / Σx: (dn - Σ dn * n) / Σx
        grad = np.divide(q, argument, out=operands.dense)
        np.copyto(grad, 0, where=q == 0)
        if loss.clip_order == "normalize_first":
            np.copyto(grad, 0, where=~inside)
        mean = np.add.reduce(np.multiply(grad, n, out=product), axis=1)
        np.subtract(mean[:, None], grad, out=grad)
        grad /= total
        grad *= operands.scale.astype(grad.dtype)[:, None]
        if loss.clip_order == "clip_first":
            np.copyto(grad, 0, where=~inside)
        np.copyto(grad, np.nan, where=np.isnan(losses)[:, None])
    return RowResults(losses)


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
    if smoothing:
        y = np.multiply(y, 1.0 - smoothing, out=operands.buffer())
        y += smoothing / 2
    c = np.clip(p, epsilon, 1.0 - epsilon, out=operands.buffer())
    # 0 * log(0) is 0, for an epsilon of 0
    positive = np.multiply(y, np.log(c), out=operands.buffer())
    np.copyto(positive, 0, where=y == 0)
    negative = np.multiply(1 - y, np.log1p(-c), out=operands.buffer())
    np.copyto(negative, 0, where=y == 1)
    losses = -(positive + negative).reshape(-1).astype(np.float64)
    if operands.dense is not None:
        up = np.divide(1 - y, 1 - c, out=negative)
        np.copyto(up, 0, where=y == 1)
        down = np.divide(y, c, out=positive)
        np.copyto(down, 0, where=y == 0)
        grad = np.subtract(up, down, out=operands.dense)
        grad *= operands.scale.astype(grad.dtype)[:, None]
        np.copyto(grad, 0, where=(p < epsilon) | (p > 1.0 - epsilon))
    return RowResults(losses)
