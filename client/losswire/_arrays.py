"""A caller's values as arrays and plain numbers: anything with `__array__`, lists, NumPy scalars.

What cannot be one is refused by its argument's name; whether it fits the loss is decided later, by
the rules that the server has too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from losswire_proto import dtypes
from losswire_proto.rules import InvalidField

if TYPE_CHECKING:
    from losswire_proto.dtypes import Array


def as_logits(field: str, value: Any) -> Array:
    """Logits as an array. Numbers in lists are float64, integers among them too."""
    array = _array(field, value)
    if _is_list(value) and dtypes.is_id(array.dtype):
        return array.astype(np.float64)
    return array


def as_labels(field: str, value: Any, rank: int) -> Array:
    """Labels as an array. Integers in lists of the logits' rank can only be floats."""
    array = _array(field, value)
    if _is_list(value) and dtypes.is_id(array.dtype) and array.ndim == rank:
        return array.astype(np.float64)
    return _wire_number(array)


def as_weight(field: str, value: Any) -> Array:
    """Weights as an array of floats; integers and booleans are counts and masks."""
    array = _wire_number(_array(field, value))
    return array.astype(np.float64) if array.dtype.kind in "iub" else array


def plain(value: Any) -> Any:
    """NumPy's scalars as Python's; anything else as it is, for a check to name."""
    if not hasattr(value, "item"):
        return value
    try:
        return value.item()
    except (TypeError, ValueError):
        return value


def names(value: Any) -> Any:
    """A single name or several as a tuple; anything else as it is, for a check to name."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, (Sequence, set, frozenset)) else value


def _is_list(value: Any) -> bool:
    """Whether the numbers have no dtype of their own."""
    return isinstance(value, (list, tuple, int, float))


def _wire_number(array: Array) -> Array:
    """Numbers that the wire does not carry as ones that it does.

    Long double becomes float64; the small floats and integers of ml_dtypes, such as float8 and
    int4, become float32 and int8, which hold them exactly.
    """
    if dtypes.number_of(array.dtype) is not None or array.dtype.kind not in "fV":
        return array
    if array.dtype.kind == "f" and array.dtype.itemsize > np.dtype(np.float64).itemsize:
        return array.astype(np.float64)
    if np.can_cast(array.dtype, np.int8):
        return array.astype(np.int8)
    if np.can_cast(array.dtype, np.uint8):
        return array.astype(np.uint8)
    return array.astype(np.float32) if np.can_cast(array.dtype, np.float32) else array


def _array(field: str, value: Any) -> Array:
    """Anything with `__array__`, or lists, as an array in native byte order."""
    try:
        array = np.asarray(value)
    except Exception as error:
        # Lists of unequal length, tensors on another device: each library has its own error.
        raise InvalidField(field, "an array", f"{type(value).__name__} ({error})") from error
    dtype: np.dtype[Any] = array.dtype
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))
