"""Messages as bytes whose tensors are neither parsed nor copied twice.

In, when reading: the bytes of a message. Out: the message without its large byte fields, parsed by
protobuf, and these fields as views into the bytes. In, when writing: a message and arrays. Out: the
bytes of the message with the arrays in it, each element written once, at an offset that suits its
size, so that whoever receives them can compute on them where they lie.

What is cut out is what protobuf would have parsed; whatever is unusual (a field that comes twice, a
group, a tag that makes no sense) is left for protobuf to read or to refuse. Both sides speak plain
protobuf: any client that was generated from the contract can talk to either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

import numpy as np

from losswire_proto.v1 import loss_service_pb2 as pb

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from losswire_proto.dtypes import Array

MessageT = TypeVar("MessageT", bound="Message")

Layout: TypeAlias = "Mapping[int, Layout | None]"
"""Where byte fields are: by field number, the layout of a message, or None for bytes."""

Path: TypeAlias = tuple[int, ...]
Views: TypeAlias = Mapping[Path, memoryview]
"""Bytes that were cut out, by the numbers of the fields that lead to them."""

SMALLEST_CUT: Final = 16 << 10
"""Bytes below which protobuf's own copy costs less than finding them here."""

ALIGNMENT: Final = 8
"""Offsets of elements are multiples of the largest item size; Python's bytes begin at 16."""

_TENSOR: Final[Layout] = {15: None}
LAYOUTS: Final[Mapping[type[Message], Layout]] = {
    pb.ComputeRequest: {2: _TENSOR, 3: _TENSOR, 4: _TENSOR, 6: _TENSOR, 15: _TENSOR},
    pb.ComputeResponse: dict.fromkeys((1, 2, 3, 4, 5, 6, 14, 15), _TENSOR),
    pb.ComputeStreamRequest: {2: dict.fromkeys((3, 15))},
    pb.ComputeStreamResponse: {1: dict.fromkeys((3, 4, 5, 6, 7, 14, 15))},
}
"""The byte fields worth cutting out: of requests, results and blocks of rows."""

_OPTIONS: Final = 1
"""Of `ComputeRequest`: a field of the first level that may stand beside tensors."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def parse(kind: type[MessageT], payload: bytes) -> tuple[MessageT, Views]:
    """A message without its large byte fields, and these as views into `payload`.

    Raises:
        DecodeError: the bytes are not such a message.
    """
    if len(payload) < SMALLEST_CUT:
        return kind.FromString(payload), {}
    views: dict[Path, memoryview] = {}
    try:
        rest = _cut(memoryview(payload), LAYOUTS[kind], (), views)
    except _Unusual:
        return kind.FromString(payload), {}
    return kind.FromString(b"".join(rest)), views


class _Unusual(Exception):  # noqa: N818 -- not an error: protobuf will read it
    """Something that is left to protobuf."""


def _cut(
    view: memoryview, layout: Layout, path: Path, views: dict[Path, memoryview]
) -> list[bytes | memoryview]:
    """The parts of a message without what goes into `views`."""
    parts: list[bytes | memoryview] = []
    position, seen = 0, set[int]()
    while position < len(view):
        start = position
        tag, position = _read_varint(view, position)
        number, kind = tag >> 3, tag & 7
        if kind != _BYTES:
            position = _skip(view, position, kind)
            if number in layout:
                raise _Unusual
            parts.append(view[start:position])
            continue
        length, position = _read_varint(view, position)
        stop = position + length
        if stop > len(view):
            raise _Unusual
        content, position = view[position:stop], stop
        if number not in layout:
            parts.append(view[start:stop])
            continue
        if number in seen:  # protobuf merges messages and lets the last bytes win
            raise _Unusual
        seen.add(number)
        inner = layout[number]
        if length < SMALLEST_CUT:
            parts.append(view[start:stop])
        elif inner is None:
            views[*path, number] = content
        else:
            remainder = b"".join(_cut(content, inner, (*path, number), views))
            parts += [varint(tag), varint(len(remainder)), remainder]
    return parts


def locate(kind: type[Message], payload: bytes) -> dict[Path, slice] | None:
    """Where the byte fields of a message are, by the numbers of the fields that lead to them.

    None for a message with anything unusual in it, or with fields that say where else to look.
    """
    spans: dict[Path, slice] = {}
    try:
        _locate(memoryview(payload), 0, LAYOUTS[kind], (), spans)
    except _Unusual:
        return None
    return spans


def _locate(
    view: memoryview, base: int, layout: Layout, path: Path, spans: dict[Path, slice]
) -> None:
    position, seen = 0, set[int]()
    while position < len(view):
        tag, position = _read_varint(view, position)
        number, kind = tag >> 3, tag & 7
        if number in seen or not (path or number in layout or number == _OPTIONS):
            raise _Unusual
        if kind != _BYTES:
            position = _skip(view, position, kind)
            continue
        length, position = _read_varint(view, position)
        start, position = position, position + length
        if position > len(view):
            raise _Unusual
        if number in layout:
            seen.add(number)
            inner = layout[number]
            if inner is None:
                spans[*path, number] = slice(base + start, base + position)
            else:
                _locate(view[start:position], base + start, inner, (*path, number), spans)


def _skip(view: memoryview, position: int, kind: int) -> int:
    if kind == _VARINT:
        return _read_varint(view, position)[1]
    if kind == _FIXED64:
        position += 8
    elif kind == _FIXED32:
        position += 4
    else:
        raise _Unusual
    if position > len(view):
        raise _Unusual
    return position


def _read_varint(view: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(view[position : position + 10]):
        value |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return value, position + index + 1
    raise _Unusual


def varint(value: int, extra: int = 0) -> bytes:
    """A number as protobuf writes it, in up to `extra` bytes more than it needs.

    The further bytes say nothing and are read by every parser; they move what follows.
    """
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    if extra:
        out.append(value | 0x80)
        out += b"\x80" * (extra - 1) + b"\x00"
    else:
        out.append(value)
    return bytes(out)


class Writer:
    """The bytes of a message, put together from small messages and large arrays.

    Args:
        head: the bytes of the message's other fields; they come first.
    """

    def __init__(self, head: bytes = b"") -> None:
        self._parts: list[bytes | memoryview] = [head]
        self._size = len(head)

    def add(
        self, path: Path, head: Message, padded: int, arrays: Sequence[tuple[int, Array]]
    ) -> None:
        """Appends a message that ends in the bytes of arrays.

        Args:
            path: the numbers of the fields that lead to that message, outermost first.
            head: its other fields.
            padded: the number of one of them, an integer other than 0, which may be written longer
                than it needs to be, so that the last array begins where it should.
            arrays: row-major and little-endian, with the numbers of their fields.
        """
        body: list[bytes | memoryview] = []
        for number, array in arrays:
            elements = array.reshape(-1).view(np.uint8).data
            body += [varint(number << 3 | _BYTES) + varint(len(elements)), elements]
        follows = sum(len(part) for part in body)
        before_last = follows - len(body[-1])
        inner = head.SerializeToString()
        for extra in range(ALIGNMENT):
            lead = _nested(path, _longer(inner, padded, extra), follows)
            if (self._size + len(lead) + before_last) % ALIGNMENT == 0:
                break
        self._parts += [lead, *body]
        self._size += len(lead) + follows

    def to_bytes(self) -> bytes:
        """The message."""
        return b"".join(self._parts)


def _nested(path: Path, head: bytes, follows: int) -> bytes:
    """`head` within the messages of `path`, when `follows` more bytes end each of them."""
    for number in reversed(path):
        head = varint(number << 3 | _BYTES) + varint(len(head) + follows) + head
    return head


def _longer(head: bytes, number: int, extra: int) -> bytes:
    """A serialised message with varint `number` written `extra` bytes longer."""
    view, position = memoryview(head), 0
    while extra:
        tag, start = _read_varint(view, position)
        if tag == number << 3 | _VARINT:
            value, stop = _read_varint(view, start)
            return head[:start] + varint(value, extra) + head[stop:]
        position = _skip(view, start, tag & 7)
    return head
