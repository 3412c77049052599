"""optax's divergences, which take log-probabilities as they are.

A server takes logits, whose softmax it divides by: sum_c y_c * (log(y_c) - z_c + lse(z)). What that
adds where log-probabilities are not normalised, lse(z) * sum_c y_c, is taken off again here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from losswire.jax._arguments import Last, broadcast, checked, floats, kept_elements
from losswire.jax._calls import Call, losses

if TYPE_CHECKING:
    from losswire._client import Client
    from losswire.jax._arguments import Axes


def kl_divergence(
    log_predictions: Any,
    targets: Any,
    axis: Axes = -1,
    where: Any = None,
    *,
    client: Client | None = None,
) -> jax.Array:
    """Kullback-Leibler divergence of predictions from targets, computed by a server.

    ::

        l = sum_c y_c * (log(y_c) - log_predictions_c)

    Args:
        log_predictions: logarithms of probabilities, `[..., classes, ...]`.
        targets: floats >= 0, which broadcast with them. Where one is 0 its gradient, -inf, is a
            finite number.
        axis: the class axis; several, or None for all, count as one.
        where: which elements count, in the common shape, or which examples.
        client: whom to ask; None is `losswire.default_client()`.

    Returns:
        The divergences, `[...]`, in the dtype that both promote to.

    Raises:
        InvalidInput: a dtype or shape that does not fit; also a ValueError.

    Source: `optax.losses.kl_divergence`.
    """
    predictions, targets = _both(log_predictions, targets)
    dtype = jnp.promote_types(predictions.dtype, targets.dtype)
    if where is not None:
        kept, counts = kept_elements(where, predictions, axis)
        predictions = jnp.where(kept, predictions, -jnp.inf)
        targets = jnp.where(counts, targets, 0)
    last = Last(predictions.ndim, axis)
    predictions, targets = (last.of(array.astype(dtype)) for array in (predictions, targets))
    loss = losses(Call("kl_divergence", (), -1, checked(client)), predictions, targets)
    normalizer = jax.nn.logsumexp(predictions.astype(loss.dtype), -1)
    return (loss - normalizer * targets.astype(loss.dtype).sum(-1)).astype(dtype)


def kl_divergence_with_log_targets(
    log_predictions: Any,
    log_targets: Any,
    axis: Axes = -1,
    where: Any = None,
    *,
    client: Client | None = None,
) -> jax.Array:
    """As `kl_divergence`, the targets as logarithms; one of -inf adds 0.

    Args:
        log_predictions: logarithms of probabilities, `[..., classes, ...]`.
        log_targets: the same, which broadcast with them.
        axis: the class axis; several, or None for all, count as one.
        where: which elements count, in the common shape, or which examples.
        client: whom to ask; None is `losswire.default_client()`.

    Source: `optax.losses.kl_divergence_with_log_targets`.
    """
    targets = jnp.exp(floats("log_targets", log_targets))
    return kl_divergence(log_predictions, targets, axis, where, client=client)


def generalized_kl_divergence(
    log_predictions: Any,
    targets: Any,
    axis: Axes = -1,
    where: Any = None,
    *,
    client: Client | None = None,
) -> jax.Array:
    """As `kl_divergence`, plus sum_c (prediction_c - y_c): for what does not sum to 1.

    Args:
        log_predictions: logarithms of numbers > 0, `[..., classes, ...]`.
        targets: floats >= 0, which broadcast with them.
        axis: the class axis; several, or None for all, count as one.
        where: which elements count, in the common shape, or which examples.
        client: whom to ask; None is `losswire.default_client()`.

    Source: `optax.losses.generalized_kl_divergence`.
    """
    divergence = kl_divergence(log_predictions, targets, axis, where, client=client)
    predictions, targets = _both(log_predictions, targets)
    return divergence + jnp.sum(jnp.exp(predictions) - targets, axis=axis, where=where)


def convex_kl_divergence(
    log_predictions: Any,
    targets: Any,
    axis: Axes = -1,
    where: Any = None,
    *,
    client: Client | None = None,
) -> jax.Array:
    """The old name of `generalized_kl_divergence`.

    Args:
        log_predictions: see there.
        targets: see there.
        axis: see there.
        where: see there.
        client: see there.

    Source: `optax.losses.convex_kl_divergence`.
    """
    return generalized_kl_divergence(log_predictions, targets, axis, where, client=client)


def _both(log_predictions: Any, targets: Any) -> tuple[jax.Array, jax.Array]:
    return broadcast(floats("log_predictions", log_predictions), floats("targets", targets))
