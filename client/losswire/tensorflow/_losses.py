"""The functions: arguments as TensorFlow reads them, in its order; see `tf.nn` for their sense.

All take `client`: whom to ask; None is `losswire.default_client()`. All raise InvalidInput, a
ValueError, for arguments that do not fit each other; for values eagerly also TensorFlow's
InvalidArgumentError.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tensorflow as tf

from losswire._errors import InvalidInput
from losswire.tensorflow._calls import Call, losses, nothing_but_a_gradient

if TYPE_CHECKING:
    from losswire._client import Client


def softmax_cross_entropy_with_logits(
    labels: Any,
    logits: Any,
    axis: int = -1,
    name: str | None = None,
    *,
    client: Client | None = None,
) -> tf.Tensor:
    """Cross-entropy between distributions and softmax of logits, with gradients to both.

    Args:
        labels: `[..., classes, ...]`, broadcastable to the logits.
        logits: `[..., classes, ...]`.
        axis: the class axis.
        name: of the operation.
        client: whom to ask.

    Returns:
        The losses, `[...]`, in the logits' dtype. The gradient to the logits is p - y, also where
        labels do not sum to 1.

    Source: `tf.nn.softmax_cross_entropy_with_logits`.
    """
    with tf.name_scope(name or "softmax_cross_entropy_with_logits"):
        logits, labels = both("softmax_cross_entropy_with_logits", logits, labels)
        labels = _broadcast(tf.cast(labels, logits.dtype), logits)
        call = Call("softmax_cross_entropy", {"label_gradient": "tf"}, axis, client)
        return losses(call, logits, labels) + nothing_but_a_gradient(call, logits, labels, None)


def sparse_softmax_cross_entropy_with_logits(
    labels: Any, logits: Any, name: str | None = None, *, client: Client | None = None
) -> tf.Tensor:
    """Cross-entropy between class ids and softmax of logits.

    Args:
        labels: any integers, `[...]`. One outside [0, classes) is an error, on a GPU too.
        logits: `[..., classes]`.
        name: of the operation.
        client: whom to ask.

    Returns:
        The losses, `[...]`, in the logits' dtype.

    Source: `tf.nn.sparse_softmax_cross_entropy_with_logits`.
    """
    with tf.name_scope(name or "sparse_softmax_cross_entropy_with_logits"):
        logits, labels = both("sparse_softmax_cross_entropy_with_logits", logits, labels)
        if not labels.dtype.is_integer:
            raise InvalidInput(f"labels: expected integers, received {labels.dtype.name}")
        if not labels.shape.is_compatible_with(logits.shape[:-1]):
            raise InvalidInput(
                f"labels: expected logits' shape {logits.shape} without the last dimension,"
                f" received {labels.shape}"
            )
        return losses(Call("softmax_cross_entropy", {}, -1, client), logits, labels)


def sigmoid_cross_entropy_with_logits(
    labels: Any = None,
    logits: Any = None,
    name: str | None = None,
    *,
    client: Client | None = None,
) -> tf.Tensor:
    """Cross-entropy between labels and sigmoid of logits by element, with gradients to both.

    Args:
        labels: floats, the logits' shape.
        logits: any shape.
        name: of the operation.
        client: whom to ask.

    Returns:
        The losses, in the logits' shape and dtype.

    Source: `tf.nn.sigmoid_cross_entropy_with_logits`.
    """
    with tf.name_scope(name or "logistic_loss"):
        logits, labels = both("sigmoid_cross_entropy_with_logits", logits, labels)
        return _by_element(logits, labels, None, client)


def weighted_cross_entropy_with_logits(
    labels: Any,
    logits: Any,
    pos_weight: Any,
    name: str | None = None,
    *,
    client: Client | None = None,
) -> tf.Tensor:
    """As `sigmoid_cross_entropy_with_logits`, positive labels weighted.

    Args:
        labels: floats, the logits' shape.
        logits: any shape.
        pos_weight: >= 0, broadcastable to the logits; without a gradient.
        name: of the operation.
        client: whom to ask.

    Returns:
        The losses, in the logits' shape and dtype.

    Source: `tf.nn.weighted_cross_entropy_with_logits`.
    """
    with tf.name_scope(name or "logistic_loss"):
        logits, labels = both("weighted_cross_entropy_with_logits", logits, labels)
        weight = tf.convert_to_tensor(pos_weight, logits.dtype)
        return _by_element(logits, labels, weight, client)


def both(function: str, logits: Any, labels: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """Logits and labels as tensors.

    Raises:
        InvalidInput: one of them is missing, or logits are no floats.
    """
    if logits is None or labels is None:
        missing = "labels" if labels is None else "logits"
        raise InvalidInput(f"{missing}: expected a tensor for {function}, received None")
    logits = tf.convert_to_tensor(logits)
    if not logits.dtype.is_floating:
        raise InvalidInput(f"logits: expected floats, received {logits.dtype.name}")
    return logits, tf.convert_to_tensor(labels)


def _by_element(
    logits: tf.Tensor, labels: tf.Tensor, weight: tf.Tensor | None, client: Client | None
) -> tf.Tensor:
    if not labels.dtype.is_floating:
        raise InvalidInput(f"labels: expected floats, received {labels.dtype.name}")
    if not labels.shape.is_compatible_with(logits.shape):
        raise InvalidInput(
            f"labels: expected logits' shape {logits.shape}, received {labels.shape}"
        )
    if logits.shape.rank == 0:  # the server's tensors have at least one dimension
        row = _by_element(tf.reshape(logits, [1]), tf.reshape(labels, [1]), weight, client)
        return tf.reshape(row, [])
    call = Call("sigmoid_cross_entropy", client=client)

    def to_labels() -> tf.Tensor:
        """q * softplus(-z) - softplus(z): the loss is linear in the labels."""
        if weight is None:
            return -logits
        return weight * tf.math.softplus(-logits) - tf.math.softplus(logits)

    weights = () if weight is None else (weight,)
    loss = losses(call, logits, labels, *weights)
    return loss + nothing_but_a_gradient(call, logits, labels, to_labels)


def _broadcast(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    if labels.shape == logits.shape and logits.shape.is_fully_defined():
        return labels
    try:
        common = tf.broadcast_static_shape(labels.shape, logits.shape)
    except ValueError:
        common = None
    if common is None or not common.is_compatible_with(logits.shape):
        raise InvalidInput(
            f"labels: expected a shape that broadcasts to {logits.shape}, received {labels.shape}"
        )
    return tf.broadcast_to(labels, tf.shape(logits))
