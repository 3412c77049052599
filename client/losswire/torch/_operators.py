"""The calls as operators of PyTorch: loss and gradients by one call, when the loss is computed.

In: tensors that were checked. Out: the loss, and the gradients that will be wanted (others are
empty tensors). `backward` multiplies what came with the loss and makes no call. The gradients are
outputs that can be differentiated in name, so that a second derivative, which the server does not
compute, is refused instead of being taken for zero.
"""

# No postponed annotations here: PyTorch reads them.
import json
from typing import Any, Final

import numpy as np
import torch

from losswire._errors import InvalidInput
from losswire._results import LossResult
from losswire.torch._checks import OutOfBounds, Refused, class_axis
from losswire.torch._routes import client_of
from losswire.torch._tensors import to_array, to_tensor
from losswire_proto.rules import InvalidField

_SOFTMAX: Final = (
    "(Tensor input, Tensor target, Tensor? weight, int ignore_index, str reduction,"
    " float label_smoothing, bool wants_input, bool wants_target, int client)"
    " -> (Tensor, Tensor, Tensor)"
)
_SIGMOID: Final = (
    "(Tensor input, Tensor target, Tensor? weight, Tensor? pos_weight, str reduction,"
    " bool wants_input, int client) -> (Tensor, Tensor)"
)
_BY_EXAMPLE: Final = (
    "(Tensor input, Tensor target, str method, str options, int? axis, bool wants_input,"
    " int client) -> (Tensor, Tensor)"
)


@torch.library.custom_op("losswire::cross_entropy", mutates_args=(), schema=_SOFTMAX)
def cross_entropy(
    input: torch.Tensor,  # noqa: A002 -- PyTorch's name
    target: torch.Tensor,
    weight: torch.Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    wants_input: bool,
    wants_target: bool,
    client: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Loss, gradient to the input, gradient to the target."""
    is_soft = target.is_floating_point()
    wanted = ("logits",) * wants_input + ("labels",) * wants_target
    options: dict[str, Any] = {
        "axis": class_axis(input),
        "reduction": reduction,
        "normalizer": "size" if is_soft else "weights",
        "ignore_index": None if is_soft else ignore_index,
        "label_smoothing": label_smoothing,
        "class_weight": None if weight is None else to_array(weight),
        "gradients": wanted,
    }
    try:
        result = client_of(client).softmax_cross_entropy(
            to_array(input), to_array(target), **options
        )
    except InvalidInput as error:
        raise _in_words_of_torch(error, {"labels": "target", "class_weight": "weight"}) from error
    loss, grad_input = _outputs(result, input)
    return loss, grad_input, _gradient(result.grad_labels, target)


@torch.library.custom_op(
    "losswire::binary_cross_entropy_with_logits", mutates_args=(), schema=_SIGMOID
)
def binary_cross_entropy_with_logits(
    input: torch.Tensor,  # noqa: A002 -- PyTorch's name
    target: torch.Tensor,
    weight: torch.Tensor | None,
    pos_weight: torch.Tensor | None,
    reduction: str,
    wants_input: bool,
    client: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss, gradient to the input."""
    try:
        result = client_of(client).sigmoid_cross_entropy(
            to_array(input),
            to_array(target),
            reduction=reduction,  # type: ignore[arg-type]
            normalizer="size",
            sample_weight=None if weight is None else to_array(weight),
            pos_weight=None if pos_weight is None else to_array(pos_weight),
            gradients=wants_input,
        )
    except InvalidInput as error:
        raise _in_words_of_torch(error, {"labels": "target", "sample_weight": "weight"}) from error
    return _outputs(result, input)


@torch.library.custom_op("losswire::by_example", mutates_args=(), schema=_BY_EXAMPLE)
def by_example(
    input: torch.Tensor,  # noqa: A002 -- PyTorch's name
    target: torch.Tensor,
    method: str,
    options: str,
    axis: int | None,
    wants_input: bool,
    client: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses of the examples by any method of the client, gradient to the input.

    Operators take no dictionaries: the options come as JSON, which keeps every bit of a float.
    """
    named = json.loads(options) | ({} if axis is None else {"axis": axis})
    ask = getattr(client_of(client), method)
    result = ask(to_array(input), to_array(target), gradients=wants_input, **named)
    return _outputs(result, input)


def _outputs(result: LossResult, tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    loss = to_tensor(np.asarray(result.loss), tensor.device)
    return loss, _gradient(result.grad_logits, tensor)


def _gradient(array: Any, tensor: torch.Tensor) -> torch.Tensor:
    return tensor.new_empty(0) if array is None else to_tensor(array, tensor.device)


def _in_words_of_torch(error: InvalidInput, names: dict[str, str]) -> InvalidInput:
    cause = error.__cause__
    if not isinstance(cause, InvalidField) or cause.field not in names:
        return Refused(str(error))
    kind = OutOfBounds if cause.field == "labels" else Refused
    return kind(str(InvalidField(names[cause.field], cause.expected, cause.received)))


def _loss_dtype(tensor: torch.Tensor) -> torch.dtype:
    return torch.float64 if tensor.dtype is torch.float64 else torch.float32


def _fake_gradient(tensor: torch.Tensor, is_wanted: bool) -> torch.Tensor:
    return tensor.new_empty(tensor.shape if is_wanted else (0,))


@cross_entropy.register_fake
def _(
    input: torch.Tensor,  # noqa: A002 -- PyTorch's name
    target: torch.Tensor,
    weight: torch.Tensor | None,  # noqa: ARG001
    ignore_index: int,  # noqa: ARG001
    reduction: str,
    label_smoothing: float,  # noqa: ARG001
    wants_input: bool,
    wants_target: bool,
    client: int,  # noqa: ARG001
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    axis = class_axis(input)
    examples = input.shape[:axis] + input.shape[axis + 1 :]
    loss = input.new_empty(examples if reduction == "none" else (), dtype=_loss_dtype(input))
    return loss, _fake_gradient(input, wants_input), _fake_gradient(target, wants_target)


@binary_cross_entropy_with_logits.register_fake
def _(
    input: torch.Tensor,  # noqa: A002 -- PyTorch's name
    target: torch.Tensor,  # noqa: ARG001
    weight: torch.Tensor | None,  # noqa: ARG001
    pos_weight: torch.Tensor | None,  # noqa: ARG001
    reduction: str,
    wants_input: bool,
    client: int,  # noqa: ARG001
) -> tuple[torch.Tensor, torch.Tensor]:
    loss = input.new_empty(input.shape if reduction == "none" else (), dtype=_loss_dtype(input))
    return loss, _fake_gradient(input, wants_input)


@by_example.register_fake
def _(
    input: torch.Tensor,  # noqa: A002 -- PyTorch's name
    target: torch.Tensor,  # noqa: ARG001
    method: str,  # noqa: ARG001
    options: str,  # noqa: ARG001
    axis: int | None,
    wants_input: bool,
    client: int,  # noqa: ARG001
) -> tuple[torch.Tensor, torch.Tensor]:
    shape = list(input.shape)
    if axis is not None:
        del shape[axis]
    return input.new_empty(shape, dtype=_loss_dtype(input)), _fake_gradient(input, wants_input)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    """Keeps the gradients that came with the loss."""
    ctx.set_materialize_grads(False)
    ctx.axis, ctx.arguments = class_axis(inputs[0]), len(inputs)
    ctx.save_for_backward(*output[1:])


def _softmax_backward(ctx: Any, grad_loss: Any, *second: Any) -> tuple[Any, ...]:
    _refuse_second_derivative(second)
    grads: list[Any] = [None] * ctx.arguments
    for place, grad in enumerate(ctx.saved_tensors):
        if ctx.needs_input_grad[place] and grad_loss is not None:
            per_class = grad_loss.unsqueeze(ctx.axis) if grad_loss.ndim else grad_loss
            grads[place] = (grad * per_class).to(grad.dtype)
    return tuple(grads)


def _keep_sigmoid(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    """Keeps the gradient, and what the one to the target is made of where it will be wanted."""
    ctx.set_materialize_grads(False)
    ctx.arguments, ctx.reduction = len(inputs), inputs[4]
    tensor, _, weight, pos_weight = inputs[:4]
    kept = (tensor, weight, pos_weight) if ctx.needs_input_grad[1] else (None, None, None)
    ctx.save_for_backward(output[1], *kept)


def _sigmoid_backward(ctx: Any, grad_loss: Any, *second: Any) -> tuple[Any, ...]:
    _refuse_second_derivative(second)
    grads: list[Any] = [None] * ctx.arguments
    if grad_loss is None:
        return tuple(grads)
    grad, tensor, weight, pos_weight = ctx.saved_tensors
    if ctx.needs_input_grad[0]:
        grads[0] = (grad * grad_loss).to(grad.dtype)
    if ctx.needs_input_grad[1]:
        per_element = _to_binary_target(tensor, weight, pos_weight) * grad_loss
        grads[1] = per_element / tensor.numel() if ctx.reduction == "mean" else per_element
    return tuple(grads)


def _keep_by_example(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.axis, ctx.arguments = inputs[4], len(inputs)
    ctx.save_for_backward(output[1])


def _backward_by_example(ctx: Any, grad_loss: Any, *second: Any) -> tuple[Any, ...]:
    _refuse_second_derivative(second)
    grads: list[Any] = [None] * ctx.arguments
    if ctx.needs_input_grad[0] and grad_loss is not None:
        (grad,) = ctx.saved_tensors
        per_class = grad_loss if ctx.axis is None else grad_loss.unsqueeze(ctx.axis)
        grads[0] = (grad * per_class).to(grad.dtype)
    return tuple(grads)


def _to_binary_target(tensor: torch.Tensor, weight: Any, pos_weight: Any) -> torch.Tensor:
    """dl/dy of w * ((1-y) * softplus(z) + q * y * softplus(-z)): linear in y, so not asked for."""
    if pos_weight is None:
        to_target = -tensor
    else:
        softplus = torch.nn.functional.softplus
        to_target = pos_weight * softplus(-tensor) - softplus(tensor)
    return to_target if weight is None else weight * to_target


def _refuse_second_derivative(second: tuple[Any, ...]) -> None:
    if any(grad is not None for grad in second):
        raise Refused("losswire.torch: expected no second derivative of a loss, received a call")


cross_entropy.register_autograd(_softmax_backward, setup_context=_keep)
binary_cross_entropy_with_logits.register_autograd(_sigmoid_backward, setup_context=_keep_sigmoid)
by_example.register_autograd(_backward_by_example, setup_context=_keep_by_example)
