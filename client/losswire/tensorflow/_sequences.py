"""The loss of sequences that TensorFlow 1 had in `tf.contrib.seq2seq`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import tensorflow as tf

from losswire._errors import InvalidInput
from losswire.tensorflow._losses import sparse_softmax_cross_entropy_with_logits

if TYPE_CHECKING:
    from collections.abc import Callable

    from losswire._client import Client

_LEAST: Final = 1e-12
"""Added to the sum of weights, as there: what has no weight has the loss 0."""


def sequence_loss(
    logits: Any,
    targets: Any,
    weights: Any,
    average_across_timesteps: bool = True,
    average_across_batch: bool = True,
    softmax_loss_function: Callable[..., Any] | None = None,
    name: str | None = None,
    *,
    client: Client | None = None,
) -> tf.Tensor:
    """Weighted cross-entropy of sequences, averaged over time, batch, both or neither.

    ::

        loss = sum(w * l) / (sum(w) + 1e-12)

    with both sums over time and batch, over time alone (a loss `[batch]`), over the batch alone
    (`[time]`), or w * l itself (`[batch, time]`).

    Args:
        logits: `[batch, time, classes]`.
        targets: class ids, `[batch, time]`.
        weights: w, floats, `[batch, time]`; 0 for padding.
        average_across_timesteps: whether to average over time.
        average_across_batch: whether to average over the batch.
        softmax_loss_function: of `labels` and `logits` by name, in place of the server's loss.
        name: of the operation.
        client: whom to ask; None is `losswire.default_client()`.

    Returns:
        The loss, in the logits' dtype, with gradients to logits and weights.

    Raises:
        InvalidInput: ranks that do not fit; also a ValueError.

    Source: `tf.contrib.seq2seq.sequence_loss` of TensorFlow 1.
    """
    with tf.name_scope(name or "sequence_loss"):
        logits, targets = tf.convert_to_tensor(logits), tf.convert_to_tensor(targets)
        weights = tf.convert_to_tensor(weights, logits.dtype)
        _check_rank("logits", logits, "[batch, time, classes]")
        _check_rank("targets", targets, "[batch, time]")
        _check_rank("weights", weights, "[batch, time]")
        loss = weights * _by_step(logits, targets, softmax_loss_function, client)
        axes = [1] * average_across_timesteps + [0] * average_across_batch
        if not axes:
            return loss
        least = tf.constant(_LEAST, loss.dtype)
        return tf.reduce_sum(loss, axes) / (tf.reduce_sum(weights, axes) + least)


def _by_step(
    logits: tf.Tensor,
    targets: tf.Tensor,
    softmax_loss_function: Callable[..., Any] | None,
    client: Client | None,
) -> tf.Tensor:
    if softmax_loss_function is None:
        return sparse_softmax_cross_entropy_with_logits(targets, logits, client=client)
    rows = tf.reshape(logits, [-1, tf.shape(logits)[2]])
    loss = softmax_loss_function(labels=tf.reshape(targets, [-1]), logits=rows)
    return tf.reshape(loss, tf.shape(targets))


def _check_rank(field: str, tensor: tf.Tensor, expected: str) -> None:
    if tensor.shape.rank not in {None, expected.count(",") + 1}:
        raise InvalidInput(f"{field}: expected {expected}, received {tensor.shape}")
