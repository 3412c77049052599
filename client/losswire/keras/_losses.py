"""The functions: arguments as Keras reads them, in its order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import tensorflow as tf

from losswire._errors import InvalidInput
from losswire.tensorflow._calls import Call, losses

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
) -> tf.Tensor:
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
    y_pred = _predictions(y_pred)
    y_true = _same_shape(tf.cast(y_true, y_pred.dtype), y_pred)
    options: dict[str, Any] = {"label_smoothing": float(label_smoothing)}
    if from_logits:
        options["label_gradient"] = "tf"
        return losses(Call("softmax_cross_entropy", options, axis, client), y_pred, y_true)
    options["epsilon"] = keras.config.epsilon()
    return losses(Call("categorical_cross_entropy", options, axis, client), y_pred, y_true)


def sparse_categorical_crossentropy(
    y_true: Any,
    y_pred: Any,
    from_logits: bool = False,
    ignore_class: int | None = None,
    axis: int = -1,
    *,
    client: Client | None = None,
) -> tf.Tensor:
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
    y_pred, ids = _predictions(y_pred), tf.convert_to_tensor(y_true)
    if not ids.dtype.is_integer:
        ids = tf.cast(ids, tf.int64)
    if ids.shape.rank == y_pred.shape.rank and ids.shape[axis] == 1:
        ids = tf.squeeze(ids, axis)
    options: dict[str, Any] = {"ignore_index": ignore_class}
    if from_logits:
        loss = losses(Call("softmax_cross_entropy", options, axis, client), y_pred, ids)
    else:
        options |= {"epsilon": keras.config.epsilon(), "clip_order": "clip_first"}
        loss = losses(Call("categorical_cross_entropy", options, axis, client), y_pred, ids)
    if ignore_class is not None:
        loss._keras_mask = ids != tf.cast(ignore_class, ids.dtype)  # noqa: SLF001 -- Keras' way
    return loss


def binary_crossentropy(
    y_true: Any,
    y_pred: Any,
    from_logits: bool = False,
    label_smoothing: float = 0.0,
    axis: int = -1,
    *,
    client: Client | None = None,
) -> tf.Tensor:
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
    y_pred = _predictions(y_pred)
    y_true = _same_shape(tf.cast(y_true, y_pred.dtype), y_pred)
    options: dict[str, Any] = {"label_smoothing": float(label_smoothing)}
    name = "sigmoid_cross_entropy"
    if not from_logits:
        name, options["epsilon"] = "binary_cross_entropy", keras.config.epsilon()
    return tf.reduce_mean(losses(Call(name, options, None, client), y_pred, y_true), axis)


def _predictions(y_pred: Any) -> tf.Tensor:
    backend = keras.config.backend()
    if backend != "tensorflow":
        raise InvalidInput(f"backend: expected Keras on tensorflow, received {backend}")
    return tf.convert_to_tensor(y_pred)


def _same_shape(y_true: tf.Tensor, y_pred: tf.Tensor) -> tf.Tensor:
    if not y_true.shape.is_compatible_with(y_pred.shape):
        raise InvalidInput(
            f"y_true: expected y_pred's shape {y_pred.shape}, received {y_true.shape}"
        )
    return y_true
