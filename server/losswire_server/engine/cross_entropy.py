"""Softmax cross-entropy of a tile, with all its options, in the order of its formulas.

z is c * tanh(logits / c) with softcap c, divided by temperature T. With smoothing a, class weights
w (W = Σ w) and z-loss k, in the notation of `softmax`:

    ids            l = (1-a) * w_y * (lse - z_y) + a/C * Σ_c w_c * (lse - z_c) + k * lse^2
                   dz = p * ((1-a) * w_y + a/C * W + 2k * lse) - (1-a) * w_y * onehot(y) - a/C * w
    distributions  q = w * (y * (1-a) + a/C)
                   l = Σ_c q_c * (lse - z_c) + k * lse^2
                   dz = p * (Σq + 2k * lse) - q             ("tf": 1 in the place of Σq)
                   dy = w * (1-a) * (lse - z)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from losswire_proto.losses import SoftmaxCrossEntropy
from losswire_server.engine.layout import Places, row_sums, weighted_sums
from losswire_server.engine.operands import RowResults
from losswire_server.engine.softmax import SoftmaxTile, softmax_tile, subtract_rows

if TYPE_CHECKING:
    from losswire_proto.dtypes import Array
    from losswire_server.engine.operands import Operands
    from losswire_server.rows import Float64s, Int64s

_PLAIN = SoftmaxCrossEntropy()


def softmax_cross_entropy(operands: Operands) -> RowResults:
    """Loss, gradients and extras of a tile; also of sequence_loss, which has no options here."""
    loss = operands.loss if isinstance(operands.loss, SoftmaxCrossEntropy) else _PLAIN
    z, by_cap = _capped(operands, loss)
    exp = operands.scratch()
    has_ids = operands.ids is not None
    spread = _Spread(operands) if has_ids and loss.label_smoothing else None
    look = None if spread is None else spread.look
    is_kept = not has_ids or "entropy" in loss.extras
    shifted = operands.buffer() if is_kept else exp
    is_shifted = not has_ids or (spread is not None and operands.class_weight is not None)
    tile = softmax_tile(z, shifted, exp, look, is_shifted=is_shifted)
    extras = _extras(tile, loss, operands) if loss.extras else {}
    if operands.ids is not None:
        losses = _with_ids(tile, z, operands.ids, loss, operands, spread)
    else:
        losses = _with_distributions(tile, loss, operands)
    if loss.z_loss:
        losses += loss.z_loss * (tile.top + tile.log_total) ** 2
    if operands.dense is not None and by_cap is not None:
        _chain_softcap(by_cap, operands.dense)
    return RowResults(losses, extras)


def _capped(operands: Operands, loss: SoftmaxCrossEntropy) -> tuple[Array, Array | None]:
    """The logits after softcap and temperature; and before, divided by the softcap if there is."""
    if loss.softcap is None and loss.temperature == 1.0:
        return operands.logits, None
    z = operands.buffer()
    if loss.softcap is None:
        np.divide(operands.logits, loss.temperature, out=z)
        return z, None
    by_cap = np.divide(operands.logits, loss.softcap, out=operands.buffer())
    np.tanh(by_cap, out=z)
    np.multiply(z, loss.softcap / loss.temperature, out=z)
    return z, by_cap


def _chain_softcap(by_cap: Array, grad: Array) -> None:
    """Multiplies by the derivative of softcap, 1 / cosh^2, which keeps its digits near 0.

    `by_cap` is written.
    """
    np.cosh(by_cap, out=by_cap)
    np.multiply(by_cap, by_cap, out=by_cap)
    np.divide(grad, by_cap, out=grad)


def _extras(tile: SoftmaxTile, loss: SoftmaxCrossEntropy, operands: Operands) -> dict[str, Array]:
    extras: dict[str, Array] = {}
    if "logsumexp" in loss.extras:
        extras["logsumexp"] = tile.top + tile.log_total
    if "argmax" in loss.extras:
        extras["argmax"] = tile.places.classes
    if "entropy" in loss.extras:
        extras["entropy"] = tile.entropy(operands.buffer())
    return extras


class _Spread:
    """The share of smoothed ids that goes to all classes alike: w, Σ w, and Σ w * (z - z_j).

    Without class weights, what of z_j is left in the sum is taken off afterwards. That costs less
    than rounding z would: z_j is 64 at most there, and with more than 64 classes lse - z is more
    than 4 on average. With weights, which may lie on j alone, nothing must be left.
    """

    def __init__(self, operands: Operands) -> None:
        self._operands = operands
        weights, classes = operands.class_weight, operands.logits.shape[1]
        ones = np.ones(1, operands.logits.dtype)
        self.weights: Array = ones if weights is None else weights
        self.total = float(classes) if weights is None else float(weights.sum(dtype=np.float64))
        self.dot: Float64s | float = 0.0

    def look(self, shown: Array, left: Float64s | float) -> None:
        """Takes the sum while z - z_j, or z with z_j left in it, is there."""
        if self._operands.class_weight is None:
            self.dot = row_sums(shown)
        else:
            self.dot = weighted_sums(self.weights, shown, self._operands.buffer())
        self.dot -= self.total * left


def _with_ids(
    tile: SoftmaxTile,
    z: Array,
    ids: Int64s,
    loss: SoftmaxCrossEntropy,
    operands: Operands,
    spread: _Spread | None,
) -> Float64s:
    weights, smoothing = operands.class_weight, loss.label_smoothing
    soft = smoothing / z.shape[1]
    log_total = tile.log_total
    at_ids = Places(ids, z.shape, tile.places)
    losses: Float64s = tile.top - at_ids.of(z)
    losses += log_total
    # w_y and (1-a) * w_y; what is 1 for all rows is not multiplied by
    weight = None if weights is None else weights[ids].astype(np.float64)
    hard: Float64s | float | None = weight
    if spread is not None:
        hard = 1.0 - smoothing if weight is None else (1.0 - smoothing) * weight
    if hard is not None:
        losses *= hard
    if spread is not None:
        losses += soft * (spread.total * log_total - spread.dot)
    grad = operands.dense
    if grad is None:
        return losses
    scale = operands.scale if loss.temperature == 1.0 else operands.scale / loss.temperature
    true_exp = tile.exp_at(at_ids)
    at_true = tile.less_one(true_exp)
    if hard is not None:
        at_true *= hard
    mass = hard  # what the probabilities are multiplied by
    if spread is not None or loss.z_loss:
        more = 2.0 * loss.z_loss * (tile.top + log_total) if loss.z_loss else 0.0
        if spread is not None:
            more = more + soft * spread.total
            at_true -= soft if weight is None else soft * weight
        at_true += true_exp / tile.total * more
        mass = more + (1.0 if hard is None else hard)
    tile.write_probabilities(scale if mass is None else scale * mass, grad)
    if spread is not None:
        subtract_rows(grad, scale * soft, spread.weights)
    at_true *= scale
    at_ids.put(grad, at_true)
    return losses


def _with_distributions(
    tile: SoftmaxTile, loss: SoftmaxCrossEntropy, operands: Operands
) -> Float64s:
    q = _smoothed(operands.labels, loss, operands)
    log_total = tile.log_total
    mass = row_sums(q)
    product = operands.buffer()
    losses: Float64s = mass * log_total - weighted_sums(q, tile.shifted, product)
    if operands.dense is not None:
        if loss.label_gradient == "tf":
            mass = np.ones_like(mass)
        if loss.z_loss:
            mass = mass + 2.0 * loss.z_loss * (tile.top + log_total)
        tile.write_gradient(q, mass, operands.scale / loss.temperature, operands.dense)
    if operands.grad_labels is not None:
        grad = operands.grad_labels
        np.subtract(log_total.astype(grad.dtype)[:, None], tile.shifted, out=grad)
        scale = operands.scale * (1.0 - loss.label_smoothing)
        np.multiply(grad, scale.astype(grad.dtype)[:, None], out=grad)
        if operands.class_weight is not None:
            np.multiply(grad, operands.class_weight, out=grad)
    return losses


def _smoothed(labels: Array, loss: SoftmaxCrossEntropy, operands: Operands) -> Array:
    """q: the labels smoothed and weighted."""
    if not loss.label_smoothing and operands.class_weight is None:
        return labels
    q = operands.buffer()
    if loss.label_smoothing:
        np.multiply(labels, 1.0 - loss.label_smoothing, out=q)
        np.add(q, loss.label_smoothing / labels.shape[1], out=q)
        labels = q
    if operands.class_weight is not None:
        np.multiply(labels, operands.class_weight, out=q)
    return q
