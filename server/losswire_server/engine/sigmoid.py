"""Losses of independent binary decisions, on logits; each element is an example of its own.

With e = e^-|z|, σ(z) = (1 if z >= 0 else e) / (1 + e), softplus(z) = max(z, 0) + log1p(e),
σ(z) * σ(-z) = e / (1 + e)^2 and pos_weight q:

    cross-entropy  l = (1-y) * softplus(z) + q * y * softplus(-z)
                   dz = (1-y) * σ(z) - q * y * σ(-z)
    focal          l = α_t * u^γ * ce,   u = 1 - p_t = (1-y) * σ(z) + y * σ(-z)
                   dz = α_t * (u^γ * (σ(z) - y) - γ * u^(γ-1) * (2y-1) * σ(z) * σ(-z) * ce)

Every sum is of terms of one sign for labels in [0, 1], so nothing cancels; σ(-z) is never 1 - σ(z).
Choices go by maximum of two arrays: a choice by mask costs ten times as much, and a maximum of an
array and a number three times.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from losswire_server.engine.layout import scale_rows
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
    decision = _Decision(operands)
    loss, product = operands.buffer(), operands.buffer()
    decision.write_cross_entropy(positive, negative, loss, product, is_sum_one=weight is None)
    losses = loss.reshape(-1)
    if operands.dense is not None:
        up, down = decision.write_shares(positive, negative, operands.dense, product)
        grad = np.subtract(up, down, out=operands.dense)
        grad /= decision.total
        scale_rows(grad, operands.scale)
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
    not_y = np.subtract(1, y, out=operands.buffer())
    decision = _Decision(operands)
    ce, u, down = (operands.buffer() for _ in range(3))
    decision.write_cross_entropy(y, not_y, ce, u)
    up, down = decision.write_shares(y, not_y, operands.scratch(), down)
    np.add(up, down, out=u)
    u /= decision.total
    # u^γ, and u^(γ-1) * ce: as u^γ * (ce / u) where that is the product of 0 and infinity
    factor, slope = operands.buffer(), operands.buffer()
    if gamma >= 1.0:
        _power(u, gamma - 1.0, slope)
        np.multiply(slope, u, out=factor)
        slope *= ce
    else:
        _power(u, gamma, factor)
        slope[...] = 1  # ce / u where both vanish
        np.divide(ce, u, out=slope, where=u != 0)
        slope *= factor
    if alpha is not None:
        share = _shared(y, not_y, alpha, u)
        factor *= share
        slope *= share
    losses = np.multiply(factor, ce, out=ce).reshape(-1)
    if operands.dense is not None:
        grad = np.subtract(up, down, out=operands.dense)
        grad *= factor
        slope *= np.subtract(y, not_y, out=down)
        slope *= np.divide(decision.small, decision.total, out=down)
        slope *= gamma
        grad -= slope
        grad /= decision.total
        scale_rows(grad, operands.scale)
    return RowResults(losses)


def _shared(y: Array, not_y: Array, alpha: float, out: Array) -> Array:
    """α * y + (1-α) * (1-y)."""
    np.multiply(not_y, 1.0 - alpha, out=out)
    out += alpha * y
    return out


def _power(base: Array, exponent: float, out: Array) -> None:
    """base^exponent; the common exponents without the function that takes ten times as long."""
    if exponent == 1.0:
        np.copyto(out, base)
    elif exponent == 2.0:
        np.multiply(base, base, out=out)
    else:
        np.power(base, exponent, out=out)


class _Decision:
    """What losses and gradients of binary logits share: one exponential and its logarithm.

    Attributes:
        small: e^-|z|.
        total: 1 + e^-|z|.
        log_total: its logarithm.
    """

    def __init__(self, operands: Operands) -> None:
        self._logits = operands.logits
        self.small, self.total, self.log_total = (operands.buffer() for _ in range(3))
        self._zero = operands.buffer()
        self._zero[...] = 0
        np.abs(operands.logits, out=self.small)
        np.negative(self.small, out=self.small)
        np.exp(self.small, out=self.small)
        np.add(self.small, 1, out=self.total)
        np.log1p(self.small, out=self.log_total)

    def write_cross_entropy(
        self,
        positive: Array,
        negative: Array,
        out: Array,
        product: Array,
        *,
        is_sum_one: bool = True,
    ) -> None:
        """Writes negative * softplus(z) + positive * softplus(-z); often the two sum to 1."""
        np.maximum(self._logits, self._zero, out=out)
        np.minimum(self._logits, self._zero, out=product)
        out *= negative
        out -= np.multiply(product, positive, out=product)
        if is_sum_one:
            out += self.log_total
        else:
            np.add(positive, negative, out=product)
            out += np.multiply(product, self.log_total, out=product)

    def write_shares(
        self, positive: Array, negative: Array, up: Array, down: Array
    ) -> tuple[Array, Array]:
        """Writes negative * σ(z) and positive * σ(-z), both times `total`, and returns them."""
        is_up = np.greater_equal(self._logits, 0)
        np.copyto(up, is_up)
        np.subtract(1, up, out=down)
        np.maximum(up, self.small, out=up)
        np.maximum(down, self.small, out=down)
        up *= negative
        down *= positive
        return up, down
