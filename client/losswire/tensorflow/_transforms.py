"""Softmax and its logarithm, with gradients that are worked out from the results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import tensorflow as tf

from losswire._errors import InvalidInput
from losswire.tensorflow._calls import asked, once

if TYPE_CHECKING:
    from losswire._client import Client


def softmax(
    logits: Any, axis: int | None = None, name: str | None = None, *, client: Client | None = None
) -> tf.Tensor:
    """Softmax along an axis.

    Args:
        logits: floats, `[..., classes, ...]`.
        axis: the class axis; None for the last one.
        name: of the operation.
        client: whom to ask; None is `losswire.default_client()`.

    Returns:
        The probabilities p, in the logits' shape and dtype; their gradient is p * (g - sum(g * p)).

    Source: `tf.nn.softmax`.
    """
    return _transform("softmax", logits, axis, name, client)


def log_softmax(
    logits: Any, axis: int | None = None, name: str | None = None, *, client: Client | None = None
) -> tf.Tensor:
    """Logarithm of softmax along an axis.

    Args:
        logits: floats, `[..., classes, ...]`.
        axis: the class axis; None for the last one.
        name: of the operation.
        client: whom to ask; None is `losswire.default_client()`.

    Returns:
        log(p), in the logits' shape and dtype; its gradient is g - p * sum(g).

    Source: `tf.nn.log_softmax`.
    """
    return _transform("log_softmax", logits, axis, name, client)


def _transform(
    method: Literal["softmax", "log_softmax"],
    logits: Any,
    axis: int | None,
    name: str | None,
    client: Client | None,
) -> tf.Tensor:
    along = -1 if axis is None else axis

    @tf.custom_gradient
    def forward(logits: tf.Tensor) -> Any:
        values = tf.numpy_function(
            lambda array: getattr(asked(client), method)(array, axis=along),
            [logits],
            logits.dtype,
            stateful=False,
        )
        values.set_shape(logits.shape)

        def backward(upstream: tf.Tensor) -> tf.Tensor:
            wide = tf.float64 if logits.dtype == tf.float64 else tf.float32
            g, result = tf.cast(upstream, wide), tf.cast(values, wide)
            if method == "softmax":
                grad = result * (g - tf.reduce_sum(g * result, along, keepdims=True))
            else:
                grad = g - tf.exp(result) * tf.reduce_sum(g, along, keepdims=True)
            return once(tf.cast(grad, logits.dtype), logits)

        return values, backward

    with tf.name_scope(name or method):
        tensor = tf.convert_to_tensor(logits)
        if not tensor.dtype.is_floating:
            raise InvalidInput(f"logits: expected floats, received {tensor.dtype.name}")
        return forward(tensor)
