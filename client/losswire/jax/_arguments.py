"""Arguments as optax reads them, made ready for a call; what does not fit is InvalidInput."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, TypeAlias

import jax.numpy as jnp

from losswire._default import checked_client
from losswire._errors import InvalidInput

if TYPE_CHECKING:
    import jax

    from losswire._client import Client

Axes: TypeAlias = int | tuple[int, ...] | None


class Last:
    """Axes moved to the end and made one.

    The order of several is theirs, as ids count along them.
    """

    def __init__(self, rank: int, axes: Axes) -> None:
        given = tuple(range(rank)) if axes is None else axes
        given = (given,) if isinstance(given, int) else given
        for axis in given:
            if not -rank <= axis < rank:
                raise InvalidInput(f"axis: expected one in [{-rank}, {rank}), received {axis}")
        self._axes = tuple(axis % rank for axis in given)
        self._order = tuple(a for a in range(rank) if a not in self._axes) + self._axes

    def of(self, array: jax.Array) -> jax.Array:
        """The array with these axes as its last one."""
        moved = array.transpose(self._order)
        examples = moved.shape[: array.ndim - len(self._axes)]
        classes = math.prod(moved.shape[len(examples) :])
        return moved.reshape(*examples, classes)


def floats(field: str, value: Any) -> jax.Array:
    """An array of floats."""
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise InvalidInput(f"{field}: expected floats, received {array.dtype}")
    return array


def broadcast(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Both in their common shape."""
    try:
        shape = jnp.broadcast_shapes(logits.shape, labels.shape)
    except ValueError as error:
        raise InvalidInput(
            f"labels: expected a shape that broadcasts with logits {list(logits.shape)}, received"
            f" {list(labels.shape)}"
        ) from error
    return jnp.broadcast_to(logits, shape), jnp.broadcast_to(labels, shape)


def check_ids(labels: jax.Array, examples: tuple[int, ...]) -> None:
    """Refuses class ids in another shape than the examples'."""
    if labels.shape != examples:
        raise InvalidInput(
            f"labels: expected class ids {list(examples)}, received {list(labels.shape)}"
        )


def kept_elements(where: Any, logits: jax.Array, axes: Axes) -> tuple[jax.Array, jax.Array]:
    """Which logits are not masked, and which elements count, both in the logits' shape.

    Where nothing of an example counts, its logits stay: they add 0, and no NaN.
    """
    counts = jnp.asarray(where)
    if counts.ndim != logits.ndim:
        counts = jnp.expand_dims(counts, () if axes is None else axes)
    counts = jnp.broadcast_to(counts, logits.shape)
    return counts | ~counts.any(axes, keepdims=True), counts


def checked(client: Any) -> Client | None:
    """The client that a function was given, or None."""
    return None if client is None else checked_client(client)
