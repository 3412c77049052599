"""Tensors on the wire: arrays to `Tensor` messages and back.

In: an array, or a message somebody sent. Out: a message, or a read-only array that looks into the
message's bytes. A message that breaks the contract raises `InvalidField`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from losswire_proto import dtypes
from losswire_proto.rules import InvalidField, Spec, check_shape
from losswire_proto.v1 import tensor_pb2

if TYPE_CHECKING:
    from losswire_proto.dtypes import Array


def normalised(array: Array) -> Array:
    """The array as the wire wants it: row-major and little-endian; itself where it is already."""
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(array.shape)


def encode(field: str, array: Array) -> tensor_pb2.Tensor:
    """An array as a message with inline storage.

    Raises:
        InvalidField: a dtype that the wire does not carry.
    """
    number = dtypes.number_of(array.dtype)
    if number is None:
        raise InvalidField(
            f"{field}.dtype", "a float or integer dtype of up to 64 bits", array.dtype
        )
    return tensor_pb2.Tensor(dtype=number, shape=array.shape, data=normalised(array).tobytes())


def decode(field: str, message: tensor_pb2.Tensor) -> Array:
    """The array in a message with inline storage; read-only, it looks into the message's bytes.

    Raises:
        InvalidField: unknown dtype, impossible shape, no storage, two storages, an unknown region,
            or a byte length other than product(shape) * itemsize.
    """
    spec = _spec(field, message)
    has_data, has_region = message.HasField("data"), message.HasField("region")
    if has_data and has_region:
        raise InvalidField(field, "one storage", "both data and region")
    if has_region:
        raise InvalidField(
            f"{field}.region", "the id of an open region", repr(message.region.region_id)
        )
    if not has_data:
        raise InvalidField(field, "one storage, data or region", "neither")
    data = message.data
    size = math.prod(spec.shape) * spec.dtype.itemsize
    if len(data) != size:
        raise InvalidField(f"{field}.data", f"{size} bytes for {spec}", f"{len(data)} bytes")
    return np.frombuffer(data, dtype=spec.dtype).reshape(spec.shape)


def _spec(field: str, message: tensor_pb2.Tensor) -> Spec:
    dtype = dtypes.dtype_of(message.dtype)
    if dtype is None:
        raise InvalidField(f"{field}.dtype", "a known DataType", f"enum value {message.dtype}")
    shape = tuple(message.shape)
    check_shape(field, shape)
    return Spec(dtype, shape)
