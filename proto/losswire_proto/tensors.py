"""Tensors on the wire: arrays to `Tensor` messages and back.

In: an array, or a message somebody sent. Out: a message, or a read-only array that looks into the
message's bytes. A message that breaks the contract raises `InvalidField`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from losswire_proto import codec, dtypes
from losswire_proto.rules import InvalidField, Spec, check_shape
from losswire_proto.v1 import tensor_pb2

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message

    from losswire_proto.codec import Views
    from losswire_proto.dtypes import Array

Region: TypeAlias = Callable[[str, tensor_pb2.RegionSlice], memoryview]
"""Finds the memory of a slice of a region; raises `InvalidField` for the field it is told."""

_DTYPE: Final = 1
_DATA: Final = 15
"""Numbers of fields of `Tensor`."""

_BYTES: Final = 2
"""The wire type of bytes and messages."""


def normalised(array: Array) -> Array:
    """The array as the wire wants it: row-major and little-endian; itself where it is already."""
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(array.shape)


def encode(field: str, array: Array) -> tensor_pb2.Tensor:
    """An array as a message with inline storage.

    Raises:
        InvalidField: a dtype that the wire does not carry.
    """
    message = describe(field, Spec.of(array))
    message.data = normalised(array).tobytes()
    return message


def write(
    kind: type[Message], head: bytes, arrays: Mapping[str, Array], names: Mapping[str, str]
) -> bytes:
    """The bytes of a message with arrays in its `Tensor` fields.

    Args:
        kind: of the message.
        head: the bytes of its other fields, which come first.
        arrays: by the names of their fields, in the order of these.
        names: what the caller calls a field, where that is another name.

    Raises:
        InvalidField: a dtype that the wire does not carry.
    """
    numbers = _numbers(kind.DESCRIPTOR)
    parts = [head]
    large: list[tuple[str, Array]] = []
    for name, array in arrays.items():
        if array.nbytes < codec.SMALLEST_CUT:
            parts.append(_lead(numbers[name], names.get(name, name), array.dtype, array.shape))
            parts.append((array if _is_little(array.dtype) else normalised(array)).tobytes())
        else:
            large.append((name, array))
    if not large:
        return b"".join(parts)
    writer = codec.Writer(b"".join(parts))
    for name, array in large:
        described = describe(names.get(name, name), Spec.of(array))
        writer.add((numbers[name],), described, _DTYPE, [(_DATA, normalised(array))])
    return writer.to_bytes()


@lru_cache(64)
def _is_little(dtype: np.dtype[Any]) -> bool:
    return dtype == dtype.newbyteorder("<")


@lru_cache
def _numbers(kind: Descriptor) -> dict[str, int]:
    """The numbers of a message's fields by their names."""
    return {each.name: each.number for each in kind.fields}


@lru_cache(1024)
def _lead(number: int, field: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """What stands before the elements of a tensor in field `number` of a message."""
    spec = Spec(dtype, shape)
    lead = describe(field, spec).SerializeToString()
    lead += codec.varint(_DATA << 3 | _BYTES) + codec.varint(spec.nbytes)
    return codec.varint(number << 3 | _BYTES) + codec.varint(len(lead) + spec.nbytes) + lead


def decode_field(
    field: str, message: Message, name: str, views: Views, region: Region | None = None
) -> Array:
    """The array in field `name` of a message that `codec.parse` read."""
    path = (message.DESCRIPTOR.fields_by_name[name].number, _DATA)
    return decode(field, getattr(message, name), views.get(path), region)


def decode(
    field: str,
    message: tensor_pb2.Tensor,
    data: memoryview | None = None,
    region: Region | None = None,
) -> Array:
    """The array in a message; read-only, it looks into the message's bytes.

    Args:
        field: what the caller calls it.
        message: the tensor, with its elements unless they are in `data`.
        data: its elements, where they were cut out of the message.
        region: finds the memory of a slice of a region; None where there are no regions.

    Raises:
        InvalidField: unknown dtype, impossible shape, no storage, two storages, an unknown region,
            or a byte length other than product(shape) * itemsize.
    """
    spec = read_spec(field, message)
    has_data, has_region = data is not None or message.HasField("data"), message.HasField("region")
    if has_data and has_region:
        raise InvalidField(field, "one storage", "both data and region")
    if not has_data and not has_region:
        raise InvalidField(field, "one storage, data or region", "neither")
    stored: memoryview | bytes
    if has_region:
        if region is None:
            received = repr(message.region.region_id)
            raise InvalidField(f"{field}.region", "the id of an open region", received)
        stored = region(f"{field}.region", message.region)
    else:
        stored = message.data if data is None else data
    return elements(field, spec, stored)


def elements(field: str, spec: Spec, data: memoryview | bytes) -> Array:
    """Bytes as an array; a view, unless they lie where a processor would be slow to read them."""
    if len(data) != spec.nbytes:
        raise InvalidField(f"{field}.data", f"{spec.nbytes} bytes for {spec}", f"{len(data)} bytes")
    array = np.frombuffer(data, dtype=spec.dtype).reshape(spec.shape)
    return array if array.flags.aligned else array.copy()


def describe(field: str, spec: Spec) -> tensor_pb2.Tensor:
    """A tensor's message without storage.

    Raises:
        InvalidField: a dtype that the wire does not carry.
    """
    number = dtypes.number_of(spec.dtype)
    if number is None:
        allowed = "a float or integer dtype of up to 64 bits"
        raise InvalidField(f"{field}.dtype", allowed, spec.dtype)
    return tensor_pb2.Tensor(dtype=number, shape=spec.shape)


def read_spec(field: str, message: tensor_pb2.Tensor | tensor_pb2.TensorSpec) -> Spec:
    """Dtype and shape in a message.

    Raises:
        InvalidField: unknown dtype or impossible shape.
    """
    dtype = dtypes.dtype_of(message.dtype)
    if dtype is None:
        raise InvalidField(f"{field}.dtype", "a known DataType", f"enum value {message.dtype}")
    check_shape(field, message.shape)
    return Spec(dtype, tuple(message.shape))
