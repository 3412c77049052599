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
    from losswire_server.rows import Int64s


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
    alpha = 1.0 if loss.alpha is None else loss.alpha
    if operands.ids is not None:
        return _focal_of_ids(operands, operands.ids, loss.gamma, alpha)
    z, exp, shifted = operands.logits, operands.scratch(), operands.buffer()
    tile = softmax_tile(z, shifted, exp)
    surprise = np.subtract(tile.log_total.astype(z.dtype)[:, None], shifted, out=shifted)
    u = -np.expm1(-surprise)
    weight = alpha * operands.labels * u**loss.gamma
    losses = np.asarray(weighted_sums(weight, surprise, np.empty_like(surprise)), np.float64)
    if operands.dense is not None:
        f = weight * (1.0 + loss.gamma * _slope(surprise, u))
        tile.write_gradient(f, row_sums(f), operands.scale, operands.dense)
    return RowResults(losses)


def _focal_of_ids(operands: Operands, ids: Int64s, gamma: float, alpha: float) -> RowResults:
    """What is left where one class has all of y: a few values for each row."""
    z, exp = operands.logits, operands.scratch()
    tile = softmax_tile(z, exp, exp, is_shifted=False)
    at_ids = Places(ids, z.shape, tile.places)
    surprise = tile.log_total + (tile.top - at_ids.of(z))
    u = -np.expm1(-surprise)
    weight = alpha * u**gamma
    losses = weight * surprise
    losses[(weight == 0) & np.isposinf(surprise)] = 0
    if operands.dense is not None:
        f = weight * (1.0 + gamma * _slope(surprise, u)) * operands.scale
        at_true = f * tile.less_one(tile.exp_at(at_ids))
        tile.write_probabilities(f, operands.dense)
        at_ids.put(operands.dense, at_true)
    return RowResults(losses)


def _slope(surprise: Array, u: Array) -> Array:
    """p * ℓ / u: 1 where all mass is on the class, 0 where none is."""
    slope: Array = np.divide(surprise, u, out=np.ones_like(u), where=u != 0) * np.exp(-surprise)
    np.copyto(slope, 0, where=np.isposinf(surprise))
    return slope
