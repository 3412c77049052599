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

import ctypes
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

import numpy as np

from losswire_proto.rules import Spec
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

_ELEMENTS: Final[Mapping[type[Message], Layout]] = {
    **LAYOUTS,
    pb.ComputeStreamRequest: {1: dict.fromkeys((2, 3, 4, 5), _TENSOR), 2: dict.fromkeys((3, 15))},
}
"""All byte fields, also those of a stream's start, which come once and are protobuf's to read."""

_REQUESTS: Final = 1
_LEAST_FIELD: Final = 16
"""Bytes that each counts for at least: it becomes an object, however small."""

_MANY: Final[Layout] = {3: LAYOUTS[pb.ComputeRequest]}
"""The requests of a `ComputeManyRequest`, and the layout of each."""

_new_bytes = ctypes.pythonapi.PyBytes_FromStringAndSize
_new_bytes.argtypes, _new_bytes.restype = (ctypes.c_char_p, ctypes.c_ssize_t), ctypes.py_object

LARGEST_REST: Final = 1 << 20
"""Bytes besides tensors' elements that a server has protobuf parse: from them it makes objects of
many times their size, and stands still meanwhile."""

_MOST_FIELDS: Final = 64
"""Of a message that is looked through here; one of very many small fields is protobuf's to read."""

_OPTIONS: Final = 1
"""Of `ComputeRequest`: a field of the first level that may stand beside tensors."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT: Final = 10
_LONGEST_LENGTH: Final = 5
"""Bytes that every parser reads of a number and of a length."""


class TooLargeError(Exception):
    """More than a server parses, besides the elements of tensors."""


def parse(kind: type[MessageT], payload: bytes, most: int | None = None) -> tuple[MessageT, Views]:
    """A message without its large byte fields, and these as views into `payload`.

    Args:
        kind: what the bytes should be.
        payload: them.
        most: bytes besides tensors' elements that it may have; None for any number.

    Raises:
        DecodeError: the bytes are not such a message.
        TooLargeError: it has more than `most`.
    """
    if len(payload) < SMALLEST_CUT:
        return kind.FromString(payload), {}
    if most is not None and len(payload) > most:
        _check_rest(kind, payload, most)
    views: dict[Path, memoryview] = {}
    try:
        rest = _cut(memoryview(payload), LAYOUTS.get(kind, {}), (), views)
    except _Unusual:
        return kind.FromString(payload), {}
    message = kind.FromString(b"".join(rest))
    fields = message.DESCRIPTOR.fields_by_number
    # Of the members of a oneof only the last is there.
    there = {path: view for path, view in views.items() if message.HasField(fields[path[0]].name)}
    return message, there


def _check_rest(kind: type[Message], payload: bytes, most: int) -> None:
    try:
        rest = sum(map(len, _cut(memoryview(payload), _ELEMENTS.get(kind, {}), (), {})))
    except _Unusual:
        rest = len(payload)
    if rest > most:
        raise TooLargeError(f"{rest} bytes")


class _Unusual(Exception):  # noqa: N818 -- not an error: protobuf will read it
    """Something that is left to protobuf."""


def _cut(
    view: memoryview, layout: Layout, path: Path, views: dict[Path, memoryview]
) -> list[bytes | memoryview]:
    """The parts of a message without what goes into `views`."""
    parts: list[bytes | memoryview] = []
    kept, position, seen = 0, 0, set[int]()
    for _ in range(_MOST_FIELDS):
        if position == len(view):
            return [*parts, view[kept:]]
        start = position
        number, begin, position = _read_field(view, start)
        if number not in layout:
            continue
        if begin is None or number in seen:  # protobuf merges messages; of bytes the last win
            raise _Unusual
        seen.add(number)
        if position - begin < SMALLEST_CUT:
            continue
        parts.append(view[kept:start])
        kept, inner = position, layout[number]
        if inner is None:
            views[*path, number] = view[begin:position]
        else:
            remainder = b"".join(_cut(view[begin:position], inner, (*path, number), views))
            parts += [varint(number << 3 | _BYTES), varint(len(remainder)), remainder]
    raise _Unusual


def _read_field(view: memoryview, start: int) -> tuple[int, int | None, int]:
    """Number, begin of the content, and end of a field; no begin for what is not worth cutting out.

    That is what holds no bytes, and tags and lengths so long that only some parsers read them.
    """
    tag, after_tag = _read_varint(view, start)
    begin: int | None = None
    if tag & 7 == _BYTES:
        length, begin = _read_varint(view, after_tag)
        stop = begin + length
        if after_tag - start > 1 or begin - after_tag > _LONGEST_LENGTH:
            begin = None
    else:
        stop = _skip(view, after_tag, tag & 7)
    if stop > len(view):
        raise _Unusual
    return tag >> 3, begin, stop


def parse_many(payload: bytes) -> pb.ComputeManyRequest:
    """A `ComputeManyRequest`, if it has at most `LARGEST_REST` bytes besides tensors' elements.

    Raises:
        DecodeError: the bytes are not such a message.
        TooLargeError: it has more.
    """
    if len(payload) > LARGEST_REST:
        left, position, view = LARGEST_REST, 0, memoryview(payload)
        while position < len(view) and left >= 0:
            start, rest = position, None
            try:
                number, begin, position = _read_field(view, start)
                if number == _REQUESTS and begin is not None:
                    rest = sum(map(len, _cut(view[begin:position], _MANY, (), {})))
            except _Unusual:
                if position == start:  # not even a field: all that is left is protobuf's to refuse
                    position = len(view)
            left -= max(_LEAST_FIELD, position - start if rest is None else rest)
        if left < 0:
            raise TooLargeError(f"more than {LARGEST_REST} bytes")
    return pb.ComputeManyRequest.FromString(payload)


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
    for _ in range(_MOST_FIELDS):
        if position == len(view):
            return
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
    raise _Unusual


def _skip(view: memoryview, position: int, kind: int) -> int:
    if kind == _VARINT:
        return _read_varint(view, position)[1]
    if kind == _FIXED64:
        position += 8
    elif kind == _FIXED32:
        position += 4
    else:
        raise _Unusual
    return position


def _read_varint(view: memoryview, position: int) -> tuple[int, int]:
    value = 0
    for index, byte in enumerate(view[position : position + _LONGEST_VARINT]):
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
        self._parts: list[bytes | memoryview | Spec] = [head]
        self._size = len(head)

    def add(
        self, path: Path, head: Message, padded: int, arrays: Sequence[tuple[int, Array | Spec]]
    ) -> None:
        """Appends a message that ends in the bytes of arrays.

        Args:
            path: the numbers of the fields that lead to that message, outermost first.
            head: its other fields.
            padded: the number of one of them, an integer other than 0, which may be written longer
                than it needs to be, so that the last array begins where it should: always, for
                one below 2**21.
            arrays: row-major and little-endian, with the numbers of their fields; or their specs,
                for arrays that `draft` makes room for.
        """
        body: list[bytes | memoryview | Spec] = []
        for number, array in arrays:
            elements = array if isinstance(array, Spec) else array.reshape(-1).view(np.uint8).data
            body += [varint(number << 3 | _BYTES) + varint(array.nbytes), elements]
        follows = sum(_length(part) for part in body)
        before_last = follows - _length(body[-1]) if body else 0
        inner = head.SerializeToString()
        for extra in range(ALIGNMENT):
            lead = _nested(path, _longer(inner, padded, extra), follows)
            if (self._size + len(lead) + before_last) % ALIGNMENT == 0:
                break
        self._parts += [lead, *body]
        self._size += len(lead) + follows

    def to_bytes(self) -> bytes:
        """The message, once all arrays are there."""
        return b"".join(part for part in self._parts if not isinstance(part, Spec))

    def draft(self) -> tuple[bytes, list[Array]]:
        """The message with room for the arrays that were specs, and these arrays to be written.

        Nobody else may see the message before they are.
        """
        unwritten = _Unwritten(self._size)
        memory: Array = np.asarray(unwritten)
        arrays, position = [], 0
        for part in self._parts:
            stop = position + _length(part)
            if isinstance(part, Spec):
                arrays.append(memory[position:stop].view(part.dtype).reshape(part.shape))
            else:
                memory[position:stop] = np.frombuffer(part, np.uint8)
            position = stop
        return unwritten.payload, arrays


def _length(part: bytes | memoryview | Spec) -> int:
    return part.nbytes if isinstance(part, Spec) else len(part)


class _Unwritten:
    """A bytes object while it is still being made, as memory for NumPy, which keeps it alive.

    This is how bytes are made in C: with nothing in them, and written before they are handed on.
    """

    def __init__(self, size: int) -> None:
        self.payload: bytes = _new_bytes(None, size)
        # The elements end the object but for the zero that ends them.
        address = id(self.payload) + bytes.__basicsize__ - 1
        self.__array_interface__ = {
            "data": (address, False),
            "shape": (size,),
            "typestr": "|u1",
            "version": 3,
        }


def _nested(path: Path, head: bytes, follows: int) -> bytes:
    """`head` within the messages of `path`, when `follows` more bytes end each of them.

    Lengths are of one width, so that a longer head moves what follows by as much and no more.
    """
    for number in reversed(path):
        length = varint(len(head) + follows)
        length = varint(len(head) + follows, _LONGEST_LENGTH - len(length))
        head = varint(number << 3 | _BYTES) + length + head
    return head


def _longer(head: bytes, number: int, extra: int) -> bytes:
    """A serialised message with varint `number` written `extra` bytes longer, or what it bears."""
    view, position = memoryview(head), 0
    while extra:
        tag, start = _read_varint(view, position)
        if tag == number << 3 | _VARINT:
            value, stop = _read_varint(view, start)
            extra = min(extra, _LONGEST_VARINT - (stop - start))
            return head[:start] + varint(value, extra) + head[stop:]
        position = _skip(view, start, tag & 7)
    return head
