"""The functions: arguments as PyTorch reads them, in its order, checked as it checks them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch

from losswire.torch import _operators
from losswire.torch._checks import (
    check_binary,
    check_cross_entropy,
    check_reduction,
    check_smoothing,
    check_tensors,
)
from losswire.torch._routes import number_of

if TYPE_CHECKING:
    from losswire._client import Client
    from losswire.torch._routes import Route


def cross_entropy(
    input: torch.Tensor,  # noqa: A002 -- PyTorch's name
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    client: Client | Route | None = None,
) -> torch.Tensor:
    """Softmax cross-entropy, computed by a server.

    Args:
        input: logits, `[classes]`, `[batch, classes]` or `[batch, classes, ...]`; float16,
            bfloat16, float32 or float64.
        target: class ids, integers in the input's shape without the classes; or distributions,
            floats in the input's shape, to which there is a gradient where they require it.
        weight: of classes, `[classes]`, >= 0.
        size_average: deprecated as in PyTorch.
        ignore_index: ids that count for nothing.
        reduce: deprecated as in PyTorch.
        reduction: "none", "sum" or "mean": by the weights of the ids that count, or by the number
            of distributions.
        label_smoothing: in [0, 1].
        client: whom to ask; None is `losswire.default_client()`.

    Returns:
        The loss, in the dtype that PyTorch's has: `[]`, or the examples' shape for "none".

    Raises:
        InvalidInput: also of the type that PyTorch raises: ValueError, RuntimeError, TypeError, or
            IndexError for ids.
        LosswireError: the call failed.

    Source: `torch.nn.functional.cross_entropy`.
    """
    check_tensors({"input": input, "target": target}, {"weight": weight})
    check_cross_entropy(input, target, weight, ignore_index)
    reduction = check_reduction(_reduction(size_average, reduce, reduction))
    is_soft = target.shape == input.shape
    if not is_soft and input.ndim == 1:
        target = target.reshape(())
    dtype = _loss_dtype(input, target if is_soft else input)
    is_tracked = torch.is_grad_enabled()
    loss, _, _ = _operators.cross_entropy(
        _without_underflow(input),
        target,
        weight,
        ignore_index,
        reduction,
        check_smoothing(label_smoothing),
        is_tracked and input.requires_grad,
        is_tracked and target.requires_grad,
        number_of(client),
    )
    return loss.to(dtype)


def binary_cross_entropy_with_logits(
    input: torch.Tensor,  # noqa: A002 -- PyTorch's name
    target: torch.Tensor,
    weight: torch.Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: torch.Tensor | None = None,
    *,
    client: Client | Route | None = None,
) -> torch.Tensor:
    """Sigmoid cross-entropy, computed by a server.

    Args:
        input: logits of any shape; float16, bfloat16, float32 or float64.
        target: floats, the input's shape.
        weight: of elements, broadcastable to the input's shape.
        size_average: deprecated as in PyTorch.
        reduce: deprecated as in PyTorch.
        reduction: "none", "sum" or "mean" over the elements.
        pos_weight: of positive elements, >= 0, broadcastable to the input's shape.
        client: whom to ask; None is `losswire.default_client()`.

    Returns:
        The loss, in the dtype that PyTorch's has: `[]`, or the input's shape for "none".

    Raises:
        InvalidInput: also of the type that PyTorch raises.
        LosswireError: the call failed.

    Source: `torch.nn.functional.binary_cross_entropy_with_logits`.
    """
    check_tensors({"input": input, "target": target}, {"weight": weight, "pos_weight": pos_weight})
    check_binary(input, target, weight, pos_weight)
    reduction = check_reduction(_reduction(size_average, reduce, reduction))
    is_scalar = input.ndim == 0
    dtype = _loss_dtype(input, target)
    loss, _ = _operators.binary_cross_entropy_with_logits(
        _without_underflow(input.reshape(1) if is_scalar else input),
        target.reshape(1) if is_scalar else target,
        weight,
        pos_weight,
        reduction,
        torch.is_grad_enabled() and input.requires_grad,
        number_of(client),
    )
    return (loss.reshape(()) if is_scalar else loss).to(dtype)


def _reduction(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """What PyTorch's deprecated arguments stand for; they win over `reduction`."""
    if size_average is None and reduce is None:
        return reduction
    warnings.warn(
        "size_average and reduce are deprecated, please use reduction instead", stacklevel=3
    )
    if reduce is False:
        return "none"
    return "sum" if size_average is False else "mean"


def _loss_dtype(tensor: torch.Tensor, other: torch.Tensor) -> torch.dtype:
    """The dtype of PyTorch's result, which autocast never lets be a half."""
    dtype = torch.promote_types(tensor.dtype, other.dtype)
    if torch.is_autocast_enabled(tensor.device.type):
        return torch.promote_types(dtype, torch.float32)
    return dtype


def _without_underflow(tensor: torch.Tensor) -> torch.Tensor:
    """The logits; under autocast, float16 as float32, as PyTorch has them.

    A gradient scaler multiplies the gradient before it is rounded to float16; so it must not have
    been rounded before. bfloat16 has float32's range and travels as it is.
    """
    if tensor.dtype is torch.float16 and torch.is_autocast_enabled(tensor.device.type):
        return tensor.float()
    return tensor
