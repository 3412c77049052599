"""Messages that differ only in their elements, read once.

In: the bytes of a message. Out: what was worked out for an earlier one that had the same bytes
everywhere but within its tensors' elements, so the same fields, shapes, dtypes and options; or
nothing, for a message of a new kind. Programs that train send the same few kinds over and over, and
for small tensors reading the message costs more than computing it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Generic, TypeVar

from losswire_proto import codec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message

    from losswire_proto.codec import Path

KnownT = TypeVar("KnownT")

_LARGEST_REST: Final = 1 << 10
"""Bytes beside the elements: options, shapes and dtypes take a tenth of it."""

_KEPT: Final = 256
"""Skeletons kept; a program has a handful."""


class Skeleton(Generic[KnownT]):
    """All bytes of a message but its elements.

    Args:
        payload: the message.
        spans: where its elements are.
        known: what follows from the rest.
    """

    __slots__ = ("_rest", "_size", "known")

    def __init__(self, payload: bytes, spans: Mapping[Path, slice], known: KnownT) -> None:
        self.known = known
        self._size = len(payload)
        self._rest: list[tuple[slice, bytes]] = []
        position = 0
        for span in [*spans.values(), slice(len(payload), len(payload))]:
            rest = slice(position, span.start)
            self._rest.append((rest, payload[rest]))
            position = span.stop

    @property
    def rest_bytes(self) -> int:
        """Bytes beside the elements."""
        return sum(len(part) for _, part in self._rest)

    def fits(self, payload: bytes) -> bool:
        """Whether a message differs from the first one in its elements at most."""
        if len(payload) != self._size:
            return False
        for span, part in self._rest:  # noqa: SIM110 -- a generator costs more than the loop
            if payload[span] != part:
                return False
        return True


class Skeletons(Generic[KnownT]):
    """The kinds of messages met so far, each with what is known of it."""

    def __init__(self, kind: type[Message]) -> None:
        self._kind = kind
        self._by_size: dict[int, list[Skeleton[KnownT]]] = {}
        self._count = 0

    def find(self, payload: bytes) -> KnownT | None:
        """What is known of such messages; None where this is the first."""
        for skeleton in self._by_size.get(len(payload), ()):
            if skeleton.fits(payload):
                return skeleton.known
        return None

    def spans(self, payload: bytes) -> Mapping[Path, slice] | None:
        """Where the elements of a message are, if it is one that can be added."""
        return codec.locate(self._kind, payload)

    def add(self, payload: bytes, spans: Mapping[Path, slice], known: KnownT) -> None:
        """Keeps what is known of a message, for those that differ only within `spans`."""
        skeleton = Skeleton(payload, spans, known)
        if skeleton.rest_bytes > _LARGEST_REST:
            return
        if self._count >= _KEPT:
            self._by_size, self._count = {}, 0
        self._by_size.setdefault(len(payload), []).append(skeleton)
        self._count += 1
