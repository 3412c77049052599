"""Bytes between requests and the device: gathered into pinned memory, scattered from it.

In: the layout of a chunk and the pinned memory of a slot, which has the same layout. Out: the
copies that the device makes by itself, each from pinned memory or, where a large array lies in
memory that is registered with the driver, from that directly; and likewise back.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from losswire_server.engine.fields import ALIGNMENT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from losswire_proto.dtypes import Array
    from losswire_server.engine.device import Pinned
    from losswire_server.engine.fields import Field, Layout

DIRECT_BYTES: Final = 64 << 10
"""Of a part below which a copy of its own takes longer than gathering it."""


@dataclass(frozen=True, slots=True)
class Copy:
    """Bytes between the host and a slot's memory.

    Attributes:
        host: address of the first.
        offset: of the first in the slot.
        nbytes: how many.
    """

    host: int
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Homecoming:
    """How the results of a chunk come back.

    Attributes:
        copies: from the device.
        moves: pairs of pinned memory and the arrays that it then goes to.
    """

    copies: Sequence[Copy]
    moves: Sequence[tuple[Array, Array]]

    def scatter(self) -> None:
        """Moves what the copies have brought to pinned memory."""
        for staged, part in self.moves:
            np.copyto(part, staged.reshape(part.shape))


class Registered:
    """Memory of the host that devices copy from and to by themselves.

    For all threads, and for destructors: these may run in the middle of anything here, on the same
    thread, so each change is one step and nothing is locked.
    """

    def __init__(self) -> None:
        self._stops: dict[int, int] = {}

    def add(self, address: int, nbytes: int) -> None:
        """Memory that has been registered."""
        self._stops[address] = address + nbytes

    def remove(self, address: int) -> bool:
        """Memory that will be no more; whether it was registered."""
        return self._stops.pop(address, None) is not None

    def holds(self, array: Array) -> bool:
        """Whether an array lies in such memory, in one piece."""
        if not self._stops or not array.flags.c_contiguous:
            return False
        address = address_of(array)
        starts = sorted(self._stops)
        at = bisect.bisect(starts, address) - 1
        return at >= 0 and address + array.nbytes <= self._stops.get(starts[at], 0)


def address_of(array: Array) -> int:
    """The address of an array's first byte."""
    address: int = array.__array_interface__["data"][0]
    return address


def upload(layout: Layout, pinned: Pinned, registered: Registered) -> list[Copy]:
    """Gathers what a chunk needs; the copies that bring it to the device."""
    copies: list[Copy] = []
    for field in layout.fields:
        for part, offset in _parts(field, field.sources):
            if _is_direct(field, part, registered):
                copies.append(Copy(address_of(part), offset, part.nbytes))
                continue
            staged = _staged(field, part, offset, pinned)
            np.copyto(staged.reshape(part.shape), part, casting="unsafe")  # as the kernel takes it
            _extend(copies, Copy(pinned.address + offset, offset, staged.nbytes))
    return copies


def download(layout: Layout, pinned: Pinned, registered: Registered) -> Homecoming:
    """How a chunk's results come back."""
    copies: list[Copy] = []
    moves: list[tuple[Array, Array]] = []
    for field in layout.fields:
        for part, offset in _parts(field, field.targets):
            if _is_direct(field, part, registered):
                copies.append(Copy(address_of(part), offset, part.nbytes))
                continue
            moves.append((_staged(field, part, offset, pinned), part))
            _extend(copies, Copy(pinned.address + offset, offset, part.nbytes))
    return Homecoming(copies, moves)


def _parts(field: Field, arrays: Sequence[Array]) -> Iterator[tuple[Array, int]]:
    """The parts of a field, each with its offset."""
    offset = field.offset
    for part in arrays:
        yield part, offset
        offset += part.size * field.dtype.itemsize


def _staged(field: Field, part: Array, offset: int, pinned: Pinned) -> Array:
    nbytes = part.size * field.dtype.itemsize
    return pinned.array[offset : offset + nbytes].view(field.dtype)


def _is_direct(field: Field, part: Array, registered: Registered) -> bool:
    return part.nbytes >= DIRECT_BYTES and part.dtype == field.dtype and registered.holds(part)


def _extend(copies: list[Copy], copy: Copy) -> None:
    """Adds a copy of pinned memory; one that follows another becomes a part of it."""
    last = copies[-1] if copies else None
    # Up to the next field there is nothing but padding.
    if last is not None and last.host - last.offset == copy.host - copy.offset:
        gap = copy.offset - (last.offset + last.nbytes)
        if 0 <= gap < ALIGNMENT:
            copies[-1] = Copy(last.host, last.offset, last.nbytes + gap + copy.nbytes)
            return
    copies.append(copy)
