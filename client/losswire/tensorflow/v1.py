"""The functions as version 1 of TensorFlow has them, `tf.compat.v1.nn`.

Labels and logits go by name: their order changed between versions. Labels of
`softmax_cross_entropy_with_logits` have no gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import tensorflow as tf

from losswire._errors import InvalidInput
from losswire.tensorflow import _losses, _transforms

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


def softmax_cross_entropy_with_logits_v2(
    labels: Any,
    logits: Any,
    axis: int | None = None,
    name: str | None = None,
    dim: int | None = None,
    *,
    client: Client | None = None,
) -> tf.Tensor:
    """As in version 2, with a gradient to the labels.

    Args:
        labels: `[..., classes, ...]`.
        logits: `[..., classes, ...]`.
        axis: the class axis; None for the last one.
        name: of the operation.
        dim: the old name of `axis`.
        client: whom to ask.

    Source: `tf.compat.v1.nn.softmax_cross_entropy_with_logits_v2`.
    """
    along = _axis(axis, dim)
    return _losses.softmax_cross_entropy_with_logits(
        labels, logits, -1 if along is None else along, name, client=client
    )


def softmax(
    logits: Any,
    axis: int | None = None,
    name: str | None = None,
    dim: int | None = None,
    *,
    client: Client | None = None,
) -> tf.Tensor:
    """As in version 2.

    Args:
        logits: floats, `[..., classes, ...]`.
        axis: the class axis; None for the last one.
        name: of the operation.
        dim: the old name of `axis`.
        client: whom to ask.

    Source: `tf.compat.v1.nn.softmax`.
    """
    return _transforms.softmax(logits, _axis(axis, dim), name, client=client)


def log_softmax(
    logits: Any,
    axis: int | None = None,
    name: str | None = None,
    dim: int | None = None,
    *,
    client: Client | None = None,
) -> tf.Tensor:
    """As in version 2.

    Args:
        logits: floats, `[..., classes, ...]`.
        axis: the class axis; None for the last one.
        name: of the operation.
        dim: the old name of `axis`.
        client: whom to ask.

    Source: `tf.compat.v1.nn.log_softmax`.
    """
    return _transforms.log_softmax(logits, _axis(axis, dim), name, client=client)


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


def _axis(axis: int | None, dim: int | None) -> int | None:
    if axis is not None and dim is not None:
        raise InvalidInput("axis: expected no dim beside it, received both")
    return dim if axis is None else axis


def _by_name(sentinel: Any) -> None:
    if sentinel is not None:
        raise InvalidInput("arguments: expected labels= and logits= by name, received positions")
