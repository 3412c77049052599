"""The functions: arguments as Keras reads them, in its order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
from keras import ops
from keras.src.backend import set_keras_mask  # no public name; Keras' reductions look there

from losswire._errors import InvalidInput
from losswire.keras._backend import backend

if TYPE_CHECKING:
    from losswire._client import Client


def categorical_crossentropy(
    y_true: Any,
    y_pred: Any,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
    *,
    client: Client | None = None,
) -> Any:
    """Cross-entropy between distributions and probabilities, or softmax of logits.

    Args:
        y_true: distributions, y_pred's shape; without a gradient.
        y_pred: floats, `[..., classes, ...]`.
        from_logits: whether y_pred holds logits.
        label_smoothing: in [0, 1].
        axis: the class axis.
        client: whom to ask.

    Returns:
        The losses, `[...]`, in y_pred's dtype.

    Raises:
        InvalidInput: arguments that do not fit each other; also a ValueError.

    Source: `keras.losses.categorical_crossentropy`.
    """
    on, y_pred, y_true = backend(), *_alike(y_pred, y_true)
    _check_axis(axis, y_pred)
    options: dict[str, Any] = {"label_smoothing": float(label_smoothing)}
    method = "softmax_cross_entropy"
    if from_logits:
        options["label_gradient"] = on.LABEL_GRADIENT
    else:
        method, options["epsilon"] = "categorical_cross_entropy", keras.config.epsilon()
    return on.losses(method, options, axis, client, y_pred, y_true)


def sparse_categorical_crossentropy(
    y_true: Any,
    y_pred: Any,
    from_logits: bool = False,
    ignore_class: int | None = None,
    axis: int = -1,
    *,
    client: Client | None = None,
) -> Any:
    """Cross-entropy between class ids and probabilities, or softmax of logits.

    Args:
        y_true: class ids, `[...]`, or with a class axis of length 1; floats are cast.
        y_pred: floats, `[..., classes, ...]`.
        from_logits: whether y_pred holds logits.
        ignore_class: the id of examples that count for nothing.
        axis: the class axis.
        client: whom to ask.

    Returns:
        The losses, `[...]`, in y_pred's dtype; with `ignore_class` masked as Keras' are.

    Raises:
        InvalidInput: arguments that do not fit each other; also a ValueError.

    Source: `keras.losses.sparse_categorical_crossentropy`.
    """
    on, y_pred, ids = backend(), ops.convert_to_tensor(y_pred), ops.convert_to_tensor(y_true)
    _check_axis(axis, y_pred)
    if not keras.backend.is_int_dtype(ids.dtype):
        ids = ops.cast(ids, "int64")
    if len(ids.shape) == len(y_pred.shape) and ids.shape[axis] == 1:
        ids = ops.squeeze(ids, axis)
    options: dict[str, Any] = {"ignore_index": ignore_class}
    method = "softmax_cross_entropy"
    if not from_logits:
        method = "categorical_cross_entropy"
        options |= {"epsilon": keras.config.epsilon(), "clip_order": on.CLIP_ORDER_OF_IDS}
    loss = on.losses(method, options, axis, client, y_pred, ids)
    if ignore_class is not None:
        set_keras_mask(loss, ops.not_equal(ids, ops.cast(ignore_class, ids.dtype)))
    return loss


def binary_crossentropy(
    y_true: Any,
    y_pred: Any,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
    *,
    client: Client | None = None,
) -> Any:
    """Cross-entropy between labels and probabilities, or sigmoid of logits, averaged over an axis.

    Args:
        y_true: numbers, y_pred's shape; without a gradient.
        y_pred: floats, any shape.
        from_logits: whether y_pred holds logits.
        label_smoothing: in [0, 1].
        axis: that is averaged over.
        client: whom to ask.

    Returns:
        The losses, in y_pred's shape without `axis`.

    Raises:
        InvalidInput: arguments that do not fit each other; also a ValueError.

    Source: `keras.losses.binary_crossentropy`.
    """
    on, y_pred, y_true = backend(), *_alike(y_pred, y_true)
    _check_axis(axis, y_pred)
    options: dict[str, Any] = {"label_smoothing": float(label_smoothing)}
    method = "sigmoid_cross_entropy"
    if not from_logits:
        method, options["epsilon"] = "binary_cross_entropy", keras.config.epsilon()
    return ops.mean(on.losses(method, options, None, client, y_pred, y_true), axis)


def _alike(y_pred: Any, y_true: Any) -> tuple[Any, Any]:
    """Both as tensors of one dtype and shape."""
    predictions, labels = ops.convert_to_tensor(y_pred), ops.convert_to_tensor(y_true)
    expected, received = tuple(predictions.shape), tuple(labels.shape)
    is_alike = len(expected) == len(received) and all(
        None in pair or pair[0] == pair[1] for pair in zip(expected, received, strict=True)
    )
    if not is_alike:
        raise InvalidInput(f"y_true: expected y_pred's shape {expected}, received {received}")
    return predictions, ops.cast(labels, predictions.dtype)


def _check_axis(axis: int, predictions: Any) -> None:
    rank = len(predictions.shape)
    if not -rank <= axis < rank:
        raise InvalidInput(f"axis: expected one in [{-rank}, {rank}), received {axis}")
