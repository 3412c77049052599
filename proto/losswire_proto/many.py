"""Messages of ComputeMany, put together from requests and answers that are bytes already.

In: the bytes of a `ComputeRequest` or `ComputeResponse`, and its id. Out: an element of the
repeated field that carries it; elements one after the other are the message.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from losswire_proto import codec

if TYPE_CHECKING:
    from collections.abc import Iterable

_varint = lru_cache(1024)(codec.varint)
"""Of lengths and timeouts, which are much the same from request to request."""


def request(identifier: int, timeout_ms: int, payload: bytes) -> bytes:
    """A `ManyRequest` among `ComputeManyRequest.requests`."""
    head = b"\x08%b\x10%b\x1a%b" % (
        codec.varint(identifier),
        _varint(timeout_ms),
        _varint(len(payload)),
    )
    return b"\x0a%b%b%b" % (_varint(len(head) + len(payload)), head, payload)


def cancelled(identifiers: Iterable[int]) -> bytes:
    """`ComputeManyRequest.cancelled_ids`."""
    packed = b"".join(map(codec.varint, identifiers))
    return b"\x12" + codec.varint(len(packed)) + packed


def response(identifier: int, payload: bytes) -> bytes:
    """A `ManyResponse` with results among `ComputeManyResponse.responses`."""
    return _answer(identifier, b"\x12", payload)


def failure(identifier: int, error: bytes) -> bytes:
    """A `ManyResponse` with the bytes of a `RequestError`."""
    return _answer(identifier, b"\x1a", error)


def _answer(identifier: int, tag: bytes, payload: bytes) -> bytes:
    head = b"\x08%b%b%b" % (codec.varint(identifier), tag, _varint(len(payload)))
    return b"\x0a%b%b%b" % (_varint(len(head) + len(payload)), head, payload)
