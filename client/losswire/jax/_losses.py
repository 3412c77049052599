"""The functions: arguments as optax reads them, in its order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from losswire._errors import InvalidInput
from losswire.jax._arguments import Last, broadcast, check_ids, checked, floats, kept_elements
from losswire.jax._calls import Call, losses

if TYPE_CHECKING:
    from losswire._client import Client
    from losswire.jax._arguments import Axes


def softmax_cross_entropy(
    logits: Any,
    labels: Any,
    axis: Axes = -1,
    where: Any = None,
    *,
    client: Client | None = None,
) -> jax.Array:
    """Cross-entropy between distributions and softmax of logits, computed by a server.

    Args:
        logits: floats, `[..., classes, ...]`.
        labels: distributions, which broadcast with the logits.
        axis: the class axis; several, or None for all, count as one.
        where: which elements count, in the logits' shape, or which examples.
        client: whom to ask; None is `losswire.default_client()`.

    Returns:
        The losses, `[...]`, in the dtype that logits and labels promote to. A class of probability
        0 and label 0 adds 0, where optax gives NaN.

    Raises:
        InvalidInput: a dtype or shape that does not fit; also a ValueError.

    Source: `optax.softmax_cross_entropy`.
    """
    logits, labels = floats("logits", logits), jnp.asarray(labels)
    dtype = jnp.promote_types(logits.dtype, labels.dtype)
    labels = labels if jnp.issubdtype(labels.dtype, jnp.floating) else labels.astype(logits.dtype)
    logits, labels = broadcast(logits, labels)
    if where is not None:
        kept, counts = kept_elements(where, logits, axis)
        logits = jnp.where(kept, logits, -jnp.inf)
        labels = jnp.where(counts, labels, 0)
    last = Last(logits.ndim, axis)
    call = Call("softmax_cross_entropy", (), -1, checked(client))
    return losses(call, last.of(logits), last.of(labels)).astype(dtype)


def safe_softmax_cross_entropy(
    logits: Any, labels: Any, *, client: Client | None = None
) -> jax.Array:
    """As `softmax_cross_entropy` along the last axis: 0 * log(0) is 0 in both.

    Args:
        logits: floats, `[..., classes]`.
        labels: distributions, which broadcast to the logits.
        client: whom to ask; None is `losswire.default_client()`.

    Source: `optax.losses.safe_softmax_cross_entropy`.
    """
    return softmax_cross_entropy(logits, labels, client=client)


def softmax_cross_entropy_with_integer_labels(
    logits: Any,
    labels: Any,
    axis: int | tuple[int, ...] = -1,
    where: Any = None,
    *,
    client: Client | None = None,
) -> jax.Array:
    """Cross-entropy between class ids and softmax of logits, computed by a server.

    Args:
        logits: floats, `[..., classes, ...]`.
        labels: integers, `[...]`. An id outside [0, classes) gives NaN, a negative one too.
        axis: the class axis; several count as one, with flat ids.
        where: which elements count, in the logits' shape, or which examples.
        client: whom to ask; None is `losswire.default_client()`.

    Returns:
        The losses, `[...]`, in the logits' dtype.

    Raises:
        InvalidInput: a dtype or shape that does not fit; also a ValueError.

    Source: `optax.softmax_cross_entropy_with_integer_labels`.
    """
    logits, labels = floats("logits", logits), jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise InvalidInput(f"labels: expected integers, received {labels.dtype}")
    if axis is None:
        raise InvalidInput("axis: expected an integer or several, received None")
    dtype, counts = logits.dtype, None
    if where is not None:
        kept, counts = kept_elements(where, logits, axis)
        logits = jnp.where(kept, logits, -jnp.inf)
    last = Last(logits.ndim, axis)
    logits = last.of(logits)
    check_ids(labels, logits.shape[:-1])
    call = Call("softmax_cross_entropy", (("out_of_range", "nan"),), -1, checked(client))
    loss = losses(call, logits, labels).astype(dtype)
    return loss if counts is None else jnp.where(last.of(counts).any(-1), loss, 0)


def sigmoid_binary_cross_entropy(
    logits: Any, labels: Any, *, client: Client | None = None
) -> jax.Array:
    """Cross-entropy between labels and sigmoid of logits by element, computed by a server.

    Args:
        logits: floats of any shape.
        labels: numbers that broadcast with the logits.
        client: whom to ask; None is `losswire.default_client()`.

    Returns:
        The losses, in the common shape and the logits' dtype.

    Raises:
        InvalidInput: a dtype or shape that does not fit; also a ValueError.

    Source: `optax.sigmoid_binary_cross_entropy`.
    """
    return _by_element(Call("sigmoid_cross_entropy", client=checked(client)), logits, labels)


def sigmoid_focal_loss(
    logits: Any,
    labels: Any,
    *,
    alpha: float | None = None,
    gamma: float = 2.0,
    client: Client | None = None,
) -> jax.Array:
    """Focal loss of sigmoid by element, computed by a server; without a gradient to the labels.

    Args:
        logits: floats of any shape.
        labels: numbers in [0, 1] that broadcast with the logits.
        alpha: weight of positive elements, a number in [0, 1]; None for none.
        gamma: exponent, a number >= 0. Neither can be traced.
        client: whom to ask; None is `losswire.default_client()`.

    Returns:
        The losses, in the common shape and the logits' dtype.

    Raises:
        InvalidInput: a dtype or shape that does not fit; also a ValueError.

    Source: `optax.sigmoid_focal_loss`.
    """
    options = {"form": "sigmoid", "gamma": float(gamma)}
    if alpha is not None:
        options["alpha"] = float(alpha)
    return _by_element(Call("focal", tuple(options.items()), None, checked(client)), logits, labels)


def _by_element(call: Call, logits: Any, labels: Any) -> jax.Array:
    logits = floats("logits", logits)
    logits, labels = broadcast(logits, jnp.asarray(labels).astype(logits.dtype))
    shape = logits.shape
    if not shape:  # the server's tensors have at least one dimension
        logits, labels = logits.reshape(1), labels.reshape(1)
    return losses(call, logits, labels).astype(logits.dtype).reshape(shape)
