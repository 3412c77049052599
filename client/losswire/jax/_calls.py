"""A call as a function that JAX can differentiate, batch and compile.

In: logits and labels of the same rank, traced or not. Out: the losses of the examples, from a
callback that JAX makes when it runs. The derivative is a callback on the same arguments, which
brings losses and gradients together, and a product with the tangents in JAX: linear in them, so
that reverse mode follows. `vmap` makes one call of a whole batch. Outside `jit` there are arrays
to be sent at once, so that errors are losswire's own; inside, JAX wraps them in its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from losswire._default import default_client

if TYPE_CHECKING:
    from losswire._client import Client


_HAS_GRAD_LABELS: Final = {"softmax_cross_entropy"}
"""Methods whose gradient to the labels the server computes."""


@dataclass(frozen=True)
class Call:
    """Which loss, and how; hashable, so that JAX finds again what it compiled.

    Attributes:
        method: of the client.
        options: of the method, by name.
        axis: the class axis counted from the end, where `vmap` adds none; None for losses by
            element.
        client: whom to ask; None for the default one when the call is made.
    """

    method: str
    options: tuple[tuple[str, Any], ...] = ()
    axis: int | None = None
    client: Client | None = None

    def ask(self, wanted: tuple[str, ...], logits: Any, labels: Any) -> tuple[Any, ...]:
        """Losses, then the gradients that are wanted, from the server."""
        method = getattr(self.client or default_client(), self.method)
        options = dict(self.options) | ({} if self.axis is None else {"axis": self.axis})
        result = method(np.asarray(logits), np.asarray(labels), gradients=wanted, **options)
        return (result.loss, *(getattr(result, f"grad_{name}") for name in wanted))


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def losses(call: Call, logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Losses of the examples, float32, or float64 for float64 logits."""
    return _ask(call, (), logits, labels)[0]


@partial(losses.defjvp, symbolic_zeros=True)
def _derivative(
    call: Call, primals: tuple[Any, Any], tangents: tuple[Any, Any]
) -> tuple[jax.Array, jax.Array]:
    logits, labels = primals
    moved = dict(zip(("logits", "labels"), tangents, strict=True))
    moved = {name: to for name, to in moved.items() if not isinstance(to, SymbolicZero)}
    asked = tuple(moved) if call.method in _HAS_GRAD_LABELS else tuple(moved.keys() - {"labels"})
    loss, *grads = _ask(call, asked, logits, labels)
    by_name = dict(zip(asked, grads, strict=True))
    if "labels" in moved and "labels" not in asked:
        by_name["labels"] = _to_labels(call, logits, labels)
    products = sum(
        by_name[name].astype(loss.dtype) * to.astype(loss.dtype) for name, to in moved.items()
    )
    return loss, products if call.axis is None else products.sum(call.axis)


def _to_labels(call: Call, logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Derivatives that need no server, of softplus(z) - y * z and of y * (log(y) - log(p))."""
    if call.method == "sigmoid_cross_entropy":
        return -logits
    if call.method == "kl_divergence" and call.axis is not None:
        least = jnp.finfo(labels.dtype).tiny
        log_p = jax.nn.log_softmax(logits, call.axis)
        return jnp.log(jnp.maximum(labels, least)) + 1 - log_p
    raise NotImplementedError(f"losswire.jax: {call.method} has no gradient to the labels")


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _ask(
    call: Call, wanted: tuple[str, ...], logits: jax.Array, labels: jax.Array
) -> tuple[jax.Array, ...]:
    if not isinstance(logits, jax.core.Tracer) and not isinstance(labels, jax.core.Tracer):
        return tuple(jnp.asarray(array) for array in call.ask(wanted, logits, labels))
    shape = list(logits.shape)
    if call.axis is not None:
        del shape[call.axis]
    dtype = jnp.promote_types(logits.dtype, jnp.float32)
    arrays = {"logits": logits, "labels": labels}
    results = (
        jax.ShapeDtypeStruct(shape, dtype),
        *(jax.ShapeDtypeStruct(arrays[name].shape, arrays[name].dtype) for name in wanted),
    )
    host = partial(call.ask, wanted)
    return jax.pure_callback(host, results, logits, labels, vmap_method="broadcast_all")


@_ask.defjvp
def _refuse_second_derivative(*_: Any) -> tuple[Any, Any]:
    raise NotImplementedError("losswire.jax: a server computes no second derivatives of losses")
