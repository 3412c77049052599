"""Losses built on softmax whose labels weigh themselves: KL divergence and focal loss.

In the notation of `softmax`, with ℓ_c = lse - z_c = -log(p_c) and u_c = 1 - p_c = -expm1(-ℓ_c):

    KL     l = Σ y * (log(y) + ℓ)                     dz = p * Σy - y
           with temperature T both sides are softened, z / T and softmax(log(y) / T) or
           softmax(target / T), dz is divided by T, and all of it may be multiplied by T^2
    focal  l = Σ_c α * y_c * u_c^γ * ℓ_c              dz = p * Σ f - f
           f_c = α * y_c * u_c^γ * (1 + γ * p_c * ℓ_c / u_c)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from losswire_server.engine import sigmoid
from losswire_server.engine.layout import Places, row_sums, weighted_sums
from losswire_server.engine.operands import RowResults
from losswire_server.engine.softmax import softmax_tile

if TYPE_CHECKING:
    from losswire_proto.dtypes import Array
    from losswire_proto.losses import Focal, KlDivergence
    from losswire_server.engine.operands import Operands


def kl_divergence(operands: Operands) -> RowResults:
    """Loss and gradient of a tile."""
    loss = cast("KlDivergence", operands.loss)
    z, target, temperature = operands.logits, operands.labels, loss.temperature
    if temperature != 1.0:
        z = np.divide(z, temperature, out=operands.buffer())
    exp = operands.scratch()
    tile = softmax_tile(z, operands.buffer(), exp)
    y, log_y = _target(target, loss, operands)
    mass = row_sums(y)
    # log(y) - (z - z_j): the parts of log(y) - log(p) that vary within the row
    np.subtract(log_y, tile.shifted, out=log_y)
    losses = mass * tile.log_total + weighted_sums(y, log_y, log_y)
    factor = temperature * temperature if loss.scale_by_temperature_squared else 1.0
    if operands.dense is not None:
        scale = operands.scale * (factor / temperature)
        tile.write_gradient(y, mass, scale, operands.dense)
    return RowResults(losses * factor)


def _target(target: Array, loss: KlDivergence, operands: Operands) -> tuple[Array, Array]:
    """The softened target and its logarithm."""
    log_y = operands.buffer()
    if not loss.target_is_logits:
        np.log(target, out=log_y)
        if loss.temperature == 1.0:
            return target, log_y
        target = log_y
    teacher = np.divide(target, loss.temperature, out=operands.buffer())
    y = operands.buffer()
    tile = softmax_tile(teacher, log_y, y)
    tile.write_probabilities(np.ones(len(y)), y)
    log_y -= tile.log_total.astype(log_y.dtype)[:, None]
    return y, log_y


def focal(operands: Operands) -> RowResults:
    """Loss and gradient of a tile, softmax or sigmoid form."""
    loss = cast("Focal", operands.loss)
    if loss.form == "sigmoid":
        return sigmoid.focal(operands)
    z, alpha = operands.logits, 1.0 if loss.alpha is None else loss.alpha
    exp = operands.scratch()
    shifted = operands.buffer()
    tile = softmax_tile(z, shifted, exp)
    if operands.ids is not None:
        at_ids = Places(operands.ids, z.shape)
        surprise = (tile.log_total + (tile.top - at_ids.of(z)))[:, None]
        y = np.ones_like(surprise)
    else:
        surprise = np.subtract(tile.log_total.astype(z.dtype)[:, None], shifted, out=shifted)
        y = operands.labels
    u = -np.expm1(-surprise)
    weight = alpha * y * u**loss.gamma
    losses = np.asarray(weighted_sums(weight, surprise, np.empty_like(surprise)), np.float64)
    if operands.dense is not None:
        # p * ℓ / u: 1 where all mass is on the class, 0 where none is
        slope = np.divide(surprise, u, out=np.ones_like(u), where=u != 0) * np.exp(-surprise)
        np.copyto(slope, 0, where=np.isposinf(surprise))
        f = weight * (1.0 + loss.gamma * slope)
        if operands.ids is not None:
            labels = operands.buffer()
            labels[...] = 0
            at_ids.put(labels, f[:, 0])
            f = labels
        mass = row_sums(f)
        tile.write_gradient(f, mass, operands.scale, operands.dense)
    return RowResults(losses)
