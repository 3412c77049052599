"""What PyTorch refuses, refused with losswire's words in the types of error that PyTorch raises.

Each error is a `losswire.InvalidInput` and what PyTorch raises for the same mistake, so that
either is caught.

    InvalidInput (a ValueError)
    ├── Refused         also a RuntimeError: dtypes, sizes and options that do not fit
    ├── NoSuchDtype     also a NotImplementedError: dtypes without a loss
    ├── OutOfBounds     also an IndexError: class ids
    └── WrongType       also a TypeError: what is no tensor
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd import forward_ad

from losswire._errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Mapping

_IDS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


class Refused(InvalidInput, RuntimeError):  # noqa: N818 -- a child of InvalidInput
    """Where PyTorch raises a RuntimeError."""


class NoSuchDtype(InvalidInput, NotImplementedError):  # noqa: N818 -- a child of InvalidInput
    """Where PyTorch has no kernel."""


class OutOfBounds(InvalidInput, IndexError):  # noqa: N818 -- a child of InvalidInput
    """Class ids outside [0, classes)."""


class WrongType(InvalidInput, TypeError):  # noqa: N818 -- a child of InvalidInput
    """An argument of another type."""


def check_tensors(needed: Mapping[str, Any], optional: Mapping[str, Any]) -> None:
    """Refuses what is no tensor, other devices, forward-mode derivatives and weights to be learnt.

    Args:
        needed: input and target, by name.
        optional: weights by name; None for those that were not given.
    """
    given = {name: value for name, value in optional.items() if value is not None}
    device = None
    for name, value in {**needed, **given}.items():
        if not isinstance(value, torch.Tensor):
            raise WrongType(f"{name}: expected a Tensor, received {type(value).__name__}")
        device = device or value.device
        if value.device != device:
            raise Refused(f"{name}: expected a tensor on {device}, received one on {value.device}")
        if _has_tangent(value):
            raise Refused(f"{name}: expected no forward-mode derivative, received a dual tensor")
    for name, value in given.items():
        if value.requires_grad and torch.is_grad_enabled():
            raise Refused(f"{name}: expected a tensor that requires no gradient, received one")
    _check_floats("input", needed["input"])


def check_cross_entropy(
    tensor: torch.Tensor, target: torch.Tensor, weight: torch.Tensor | None, ignore_index: int
) -> None:
    """Refuses shapes and dtypes that do not fit each other."""
    if tensor.ndim == 0:
        raise Refused("input: expected [classes] or [batch, classes, ...], received a scalar")
    axis = class_axis(tensor)
    if target.shape == tensor.shape:
        if target.dtype not in _FLOATS:
            raise Refused(f"target: expected distributions of floats, received {target.dtype}")
        if ignore_index >= 0:
            raise Refused(
                f"ignore_index: expected none with distributions, received {ignore_index}"
            )
    else:
        _check_ids(tensor, target, axis)
    if weight is not None:
        _check_floats("weight", weight)
        if weight.shape != (tensor.shape[axis],):
            raise Refused(f"weight: expected [{tensor.shape[axis]}], received {list(weight.shape)}")


def check_binary(
    tensor: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
    pos_weight: torch.Tensor | None,
) -> None:
    """Refuses shapes and dtypes that do not fit each other."""
    if target.shape != tensor.shape:
        raise InvalidInput(
            f"target: expected input's shape {list(tensor.shape)}, received {list(target.shape)}"
        )
    if target.dtype not in _FLOATS:
        raise Refused(f"target: expected floats, received {target.dtype}")
    for name, each in (("weight", weight), ("pos_weight", pos_weight)):
        if each is not None and not _is_broadcastable(each.shape, tensor.shape):
            raise Refused(
                f"{name}: expected a tensor broadcastable to {list(tensor.shape)}, received"
                f" {list(each.shape)}"
            )


def check_smoothing(label_smoothing: Any) -> float:
    """The smoothing as a float in [0, 1]."""
    if isinstance(label_smoothing, bool) or not isinstance(label_smoothing, (int, float)):
        received = type(label_smoothing).__name__
        raise WrongType(f"label_smoothing: expected a number, received {received}")
    if not 0 <= label_smoothing <= 1:
        raise Refused(f"label_smoothing: expected a number in [0, 1], received {label_smoothing}")
    return float(label_smoothing)


def check_reduction(reduction: Any) -> str:
    """The reduction, one that there is."""
    if reduction not in {"none", "sum", "mean"}:
        allowed = "one of 'none', 'sum', 'mean'"
        raise InvalidInput(f"reduction: expected {allowed}, received {reduction!r}")
    return str(reduction)


def class_axis(tensor: torch.Tensor) -> int:
    """Where PyTorch has the classes: [classes] or [batch, classes, ...]."""
    return 0 if tensor.ndim == 1 else 1


def _has_tangent(tensor: torch.Tensor) -> bool:
    """Whether a forward-mode derivative is wanted, which would be taken for zero."""
    if torch.compiler.is_compiling():
        return False
    return forward_ad.unpack_dual(tensor).tangent is not None


def _check_floats(name: str, tensor: torch.Tensor) -> None:
    if tensor.dtype not in _FLOATS:
        allowed = "float16, bfloat16, float32 or float64"
        raise NoSuchDtype(f"{name}: expected {allowed}, received {tensor.dtype}")


def _check_ids(tensor: torch.Tensor, target: torch.Tensor, axis: int) -> None:
    examples = list(tensor.shape[:axis] + tensor.shape[axis + 1 :])
    received = list(target.shape)
    # PyTorch takes [1] for one example without a batch.
    if received != examples and not (tensor.ndim == 1 and received == [1]):
        # Of mistakes, PyTorch calls the number of examples a value.
        is_count = target.ndim in {0, 1} and tensor.ndim == 2
        raise (InvalidInput if is_count or target.shape[:1] != tensor.shape[:1] else Refused)(
            f"target: expected class ids {examples} or distributions {list(tensor.shape)},"
            f" received {received}"
        )
    if target.dtype not in _IDS:
        raise Refused(f"target: expected integers, received {target.dtype}")
    if tensor.shape[axis] == 0:
        raise OutOfBounds(f"input: expected at least one class, received {list(tensor.shape)}")


def _is_broadcastable(shape: torch.Size, target: torch.Size) -> bool:
    if len(shape) > len(target):
        return False
    pairs = zip(reversed(shape), reversed(target), strict=False)
    return all(length in (1, wanted) for length, wanted in pairs)
