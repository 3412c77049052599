"""A call as a function that TensorFlow can differentiate and trace.

In: logits and labels as tensors. Out: the losses of the examples; their gradient comes by the same
call, through `tf.numpy_function`: eagerly errors are losswire's own, in a graph TensorFlow's with
losswire's words.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import tensorflow as tf

from losswire._default import checked_client, default_client
from losswire._errors import InvalidInput
from losswire_proto.rules import InvalidField

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from losswire._client import Client

Arrays: TypeAlias = "tuple[Any, ...]"


class Refused(InvalidInput, tf.errors.InvalidArgumentError):
    """Values that do not fit, where TensorFlow raises an InvalidArgumentError."""

    def __init__(self, message: str) -> None:
        tf.errors.InvalidArgumentError.__init__(self, None, None, message)
        self.code = self.default_code


@dataclass(frozen=True)
class Call:
    """Which loss, and how.

    Attributes:
        method: of the client.
        options: of the method.
        axis: the class axis; None for losses by element.
        client: whom to ask; None for the default one when the call is made.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    axis: int | None = None
    client: Client | None = None

    def ask(self, wanted: str, logits: Any, labels: Any, *weights: Any) -> Arrays:
        """Losses and a gradient, from the server."""
        options = dict(self.options)
        if self.axis is not None:
            options["axis"] = self.axis
        if weights:
            options["pos_weight"] = weights[0]
        try:
            method = getattr(asked(self.client), self.method)
            result = method(logits, labels, gradients=(wanted,), **options)
        except InvalidInput as error:
            if isinstance(error.__cause__, InvalidField):
                raise Refused(str(error)) from error
            raise
        return np.asarray(result.loss), getattr(result, f"grad_{wanted}")


def asked(client: Any) -> Client:
    """The client that a function was given; None is the default one."""
    return default_client() if client is None else checked_client(client)


def losses(call: Call, logits: tf.Tensor, labels: tf.Tensor, *weights: tf.Tensor) -> tf.Tensor:
    """Losses of the examples in the logits' dtype, with a gradient to the logits."""

    @tf.custom_gradient
    def forward(logits: tf.Tensor) -> Any:
        loss, grad = _run(call, "logits", logits, labels, *weights)

        def backward(upstream: tf.Tensor) -> tf.Tensor:
            product = _per_class(call, upstream) * tf.cast(grad, upstream.dtype)
            return once(tf.cast(product, logits.dtype), logits)

        return loss, backward

    return tf.cast(forward(logits), logits.dtype)


def nothing_but_a_gradient(
    call: Call, logits: tf.Tensor, labels: tf.Tensor, to_labels: Callable[[], tf.Tensor] | None
) -> tf.Tensor:
    """Zeros whose gradient to the labels is the loss's.

    Added to the losses, so that it is worked out only where someone wants it.

    Args:
        call: the loss.
        logits: as for the loss.
        labels: in the logits' shape.
        to_labels: works the gradient out; None: the server does.
    """

    @tf.custom_gradient
    def forward(labels: tf.Tensor) -> Any:
        def backward(upstream: tf.Tensor) -> tf.Tensor:
            grad = _run(call, "labels", logits, labels)[1] if to_labels is None else to_labels()
            product = _per_class(call, upstream) * tf.cast(grad, upstream.dtype)
            return once(tf.cast(product, labels.dtype), labels)

        zeros = tf.zeros_like(labels)
        return (zeros if call.axis is None else tf.reduce_sum(zeros, call.axis)), backward

    return tf.cast(forward(labels), logits.dtype)


@tf.custom_gradient
def once(grad: tf.Tensor, source: tf.Tensor) -> Any:  # noqa: ARG001 -- what a second one is of
    """A gradient, which has none itself: a second derivative is refused and not taken for zero."""

    def backward(*_: tf.Tensor) -> Any:
        raise NotImplementedError(
            "losswire.tensorflow: a server computes no second derivatives of losses"
        )

    return tf.identity(grad), backward


def _per_class(call: Call, upstream: tf.Tensor) -> tf.Tensor:
    """Gradients of the losses beside the classes."""
    if call.axis is None:
        return upstream
    return tf.expand_dims(upstream, call.axis)


def _run(call: Call, wanted: str, *tensors: tf.Tensor) -> list[tf.Tensor]:
    logits = tensors[0]
    moved = tensors[0 if wanted == "logits" else 1]
    loss_dtype = tf.float64 if logits.dtype == tf.float64 else tf.float32
    loss, grad = tf.numpy_function(
        lambda *arrays: call.ask(wanted, *arrays),
        tensors,
        [loss_dtype, moved.dtype],
        stateful=False,
    )
    grad.set_shape(moved.shape)
    shape = logits.shape
    if call.axis is None:
        loss.set_shape(shape)
    elif shape.rank is not None:
        axis = call.axis % shape.rank
        loss.set_shape(shape[:axis].concatenate(shape[axis + 1 :]))
    return [loss, grad]
