"""The functions as version 1 of TensorFlow has them, `tf.compat.v1.nn`.

Labels and logits go by name: their order changed between versions. Labels of
`softmax_cross_entropy_with_logits` have no gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tensorflow as tf

from losswire._errors import InvalidInput
from losswire.tensorflow import _losses

if TYPE_CHECKING:
    from losswire._client import Client


def softmax_cross_entropy_with_logits(
    _sentinel: Any = None,
    labels: Any = None,
    logits: Any = None,
    dim: int = -1,
    name: str | None = None,
    axis: int | None = None,
    *,
    client: Client | None = None,
) -> tf.Tensor:
    """As in version 2, without a gradient to the labels.

    Args:
        _sentinel: nothing; keeps the others from being given by position.
        labels: `[..., classes, ...]`.
        logits: `[..., classes, ...]`.
        dim: the old name of `axis`.
        name: of the operation.
        axis: the class axis.
        client: whom to ask.

    Source: `tf.compat.v1.nn.softmax_cross_entropy_with_logits`.
    """
    _by_name(_sentinel)
    logits, labels = _losses.both("softmax_cross_entropy_with_logits", logits, labels)
    return _losses.softmax_cross_entropy_with_logits(
        tf.stop_gradient(labels), logits, dim if axis is None else axis, name, client=client
    )


def sparse_softmax_cross_entropy_with_logits(
    _sentinel: Any = None,
    labels: Any = None,
    logits: Any = None,
    name: str | None = None,
    *,
    client: Client | None = None,
) -> tf.Tensor:
    """As in version 2.

    Args:
        _sentinel: nothing; keeps the others from being given by position.
        labels: integers, `[...]`.
        logits: `[..., classes]`.
        name: of the operation.
        client: whom to ask.

    Source: `tf.compat.v1.nn.sparse_softmax_cross_entropy_with_logits`.
    """
    _by_name(_sentinel)
    return _losses.sparse_softmax_cross_entropy_with_logits(labels, logits, name, client=client)


def sigmoid_cross_entropy_with_logits(
    _sentinel: Any = None,
    labels: Any = None,
    logits: Any = None,
    name: str | None = None,
    *,
    client: Client | None = None,
) -> tf.Tensor:
    """As in version 2.

    Args:
        _sentinel: nothing; keeps the others from being given by position.
        labels: floats, the logits' shape.
        logits: any shape.
        name: of the operation.
        client: whom to ask.

    Source: `tf.compat.v1.nn.sigmoid_cross_entropy_with_logits`.
    """
    _by_name(_sentinel)
    return _losses.sigmoid_cross_entropy_with_logits(labels, logits, name, client=client)


def weighted_cross_entropy_with_logits(
    labels: Any = None,
    logits: Any = None,
    pos_weight: Any = None,
    name: str | None = None,
    targets: Any = None,
    *,
    client: Client | None = None,
) -> tf.Tensor:
    """As in version 2.

    Args:
        labels: floats, the logits' shape.
        logits: any shape.
        pos_weight: >= 0, broadcastable to the logits.
        name: of the operation.
        targets: the old name of `labels`.
        client: whom to ask.

    Source: `tf.compat.v1.nn.weighted_cross_entropy_with_logits`.
    """
    given = labels if targets is None else targets
    return _losses.weighted_cross_entropy_with_logits(
        given, logits, pos_weight, name, client=client
    )


def _by_name(sentinel: Any) -> None:
    if sentinel is not None:
        raise InvalidInput("arguments: expected labels= and logits= by name, received positions")
