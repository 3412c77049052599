"""Element types: the one table between NumPy's dtypes and the wire's `DataType`."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, TypeAlias

import ml_dtypes
import numpy as np

from losswire_proto.v1 import tensor_pb2

Array: TypeAlias = np.ndarray[Any, Any]
"""An array of a dtype that is known only at run time."""

BFLOAT16: Final = np.dtype(ml_dtypes.bfloat16)

_BY_NUMBER: Final[dict[tensor_pb2.DataType, np.dtype[Any]]] = {
    tensor_pb2.DATA_TYPE_FLOAT16: np.dtype(np.float16),
    tensor_pb2.DATA_TYPE_BFLOAT16: BFLOAT16,
    tensor_pb2.DATA_TYPE_FLOAT32: np.dtype(np.float32),
    tensor_pb2.DATA_TYPE_FLOAT64: np.dtype(np.float64),
    tensor_pb2.DATA_TYPE_INT8: np.dtype(np.int8),
    tensor_pb2.DATA_TYPE_INT16: np.dtype(np.int16),
    tensor_pb2.DATA_TYPE_INT32: np.dtype(np.int32),
    tensor_pb2.DATA_TYPE_INT64: np.dtype(np.int64),
    tensor_pb2.DATA_TYPE_UINT8: np.dtype(np.uint8),
    tensor_pb2.DATA_TYPE_UINT16: np.dtype(np.uint16),
    tensor_pb2.DATA_TYPE_UINT32: np.dtype(np.uint32),
    tensor_pb2.DATA_TYPE_UINT64: np.dtype(np.uint64),
}
_NUMBER_BY_NAME: Final = {dtype.name: number for number, dtype in _BY_NUMBER.items()}

FLOATS: Final = (np.dtype(np.float16), BFLOAT16, np.dtype(np.float32), np.dtype(np.float64))
"""Dtypes that logits, distributions and weights may have."""


def dtype_of(number: int) -> np.dtype[Any] | None:
    """The NumPy dtype of a wire `DataType`, or None where there is none."""
    return _BY_NUMBER.get(number)  # type: ignore[call-overload, no-any-return]  # enums are ints


@lru_cache(128)
def number_of(dtype: np.dtype[Any]) -> tensor_pb2.DataType | None:
    """The wire `DataType` of a NumPy dtype in any byte order, or None where there is none."""
    return _NUMBER_BY_NAME.get(dtype.name)


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether elements of this dtype are logits, distributions or weights."""
    return dtype in FLOATS


def is_id(dtype: np.dtype[Any]) -> bool:
    """Whether elements of this dtype are class ids: the integers, without bool."""
    return dtype.kind in "iu"


def compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that losses of such logits are computed and returned in."""
    return np.dtype(np.float64) if dtype == np.float64 else np.dtype(np.float32)
