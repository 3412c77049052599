"""Tensors as NumPy arrays and back, without a copy where both are on the CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ml_dtypes
import numpy as np
import torch

if TYPE_CHECKING:
    from losswire_proto.dtypes import Array


def to_array(tensor: torch.Tensor) -> Array:
    """The numbers of a tensor; bfloat16 as ml_dtypes has it."""
    local = tensor.detach().cpu().resolve_neg()
    if local.dtype is torch.bfloat16:
        bits: Array = local.view(torch.uint16).numpy()
        return bits.view(ml_dtypes.bfloat16)
    array: Array = local.numpy()
    return array


def to_tensor(array: Array, device: torch.device) -> torch.Tensor:
    """An array that is the caller's own, as a contiguous tensor on a device."""
    rows = np.ascontiguousarray(array).reshape(array.shape)  # which makes [1] of []
    if rows.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(rows.view(np.uint16)).view(torch.bfloat16).to(device)
    return torch.from_numpy(rows).to(device)
