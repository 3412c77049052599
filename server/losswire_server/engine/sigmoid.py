"""Losses of independent binary decisions, on logits; each element is an example of its own.

With σ(z) = 1 / (1 + e^-z), softplus(z) = max(z, 0) + log1p(e^-|z|) and pos_weight q:

    cross-entropy  l = (1-y) * softplus(z) + q * y * softplus(-z)
                   dz = (1-y) * σ(z) - q * y * σ(-z)
    focal          l = α_t * u^γ * ce,   u = 1 - p_t = (1-y) * σ(z) + y * σ(-z)
                   dz = α_t * (u^γ * (σ(z) - y) - γ * u^(γ-1) * (2y-1) * σ(z) * σ(-z) * ce)

Every sum is of terms of one sign for labels in [0, 1], so nothing cancels; σ(-z) is never 1 - σ(z).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from losswire_server.engine.operands import RowResults

if TYPE_CHECKING:
    from losswire_proto.dtypes import Array
    from losswire_proto.losses import Focal, SigmoidCrossEntropy
    from losswire_server.engine.operands import Operands


def sigmoid_cross_entropy(operands: Operands) -> RowResults:
    """Loss and gradient of a tile."""
    labels, weight = operands.labels, operands.pos_weight
    smoothing = cast("SigmoidCrossEntropy", operands.loss).label_smoothing
    negative = np.subtract(1, labels, out=operands.buffer())
    if smoothing:
        labels = smooth(labels, smoothing, operands.buffer())
        negative = smooth(negative, smoothing, negative)
    positive = labels if weight is None else np.multiply(labels, weight, out=operands.buffer())
    up, down = operands.buffer(), operands.buffer()
    _softplus(operands.logits, up, down)
    loss = np.multiply(negative, up, out=up)
    loss += np.multiply(positive, down, out=down)
    losses = loss.reshape(-1).astype(np.float64)
    if operands.dense is not None:
        _sigmoid(operands.logits, up, down)
        grad = np.multiply(negative, up, out=operands.dense)
        grad -= np.multiply(positive, down, out=down)
        grad *= operands.scale.astype(grad.dtype)[:, None]
    return RowResults(losses)


def smooth(labels: Array, smoothing: float, out: Array) -> Array:
    """Binary labels, or one minus them, as y * (1-a) + a/2."""
    np.multiply(labels, 1.0 - smoothing, out=out)
    out += smoothing / 2
    return out


def focal(operands: Operands) -> RowResults:
    """Loss and gradient of a tile, sigmoid form."""
    loss, y = cast("Focal", operands.loss), operands.labels
    gamma, alpha = loss.gamma, loss.alpha
    up, down, sigma, sigma_minus = (operands.buffer() for _ in range(4))
    _softplus(operands.logits, up, down)
    _sigmoid(operands.logits, sigma, sigma_minus)
    ce = (1 - y) * up + y * down
    u = (1 - y) * sigma + y * sigma_minus
    factor = u**gamma if alpha is None else u**gamma * (alpha * y + (1 - alpha) * (1 - y))
    losses = (factor * ce).reshape(-1).astype(np.float64)
    if operands.dense is not None:
        # u^(γ-1) * ce as u^γ * (ce / u); ce / u tends to 1 where both vanish
        ratio = np.divide(ce, u, out=np.ones_like(u), where=u != 0)
        slope = gamma * ratio * (2 * y - 1) * sigma * sigma_minus
        grad = np.multiply(factor, (1 - y) * sigma - y * sigma_minus - slope, out=operands.dense)
        grad *= operands.scale.astype(grad.dtype)[:, None]
    return RowResults(losses)


def _softplus(z: Array, up: Array, down: Array) -> None:
    """Writes softplus(z) into `up` and softplus(-z) into `down`."""
    np.abs(z, out=down)
    np.negative(down, out=down)
    np.exp(down, out=down)
    np.log1p(down, out=down)
    np.maximum(z, 0, out=up)
    up += down
    down -= np.minimum(z, 0)


def _sigmoid(z: Array, up: Array, down: Array) -> None:
    """Writes σ(z) into `up` and σ(-z) into `down`.

    As e^min(z, 0) and e^-max(z, 0), one of which is 1, over their sum: a choice by mask would cost
    ten times as much.
    """
    np.exp(np.minimum(z, 0, out=up), out=up)
    np.maximum(z, 0, out=down)
    np.exp(np.negative(down, out=down), out=down)
    total = up + down
    up /= total
    down /= total
