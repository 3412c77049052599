"""Requests cut into tiles of rows that fit the cache, and tiles put together from requests.

In: requests with where their results go. Out: tiles, each a few pieces of requests; a tile gathers
its rows class-last and in the compute dtype (looking at the request's own memory where that is how
it lies there), and scatters its gradients back. A request's cuts depend on its own shape alone.

Rows are the examples in row-major order. Logits are seen as `[outer, classes, inner]`, so the row
of example (o, i) is o * inner + i, whatever the class axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from losswire_proto.dtypes import Array
    from losswire_server.requests import LossRequest
    from losswire_server.rows import LabelGradient, LabelTable, Weighting

TILE_ELEMENTS: Final = 1 << 19
"""Elements of a tile: 2 MiB of float32. Smaller tiles would stay in L2, but their many short calls
hand the interpreter's lock to and fro, which costs more: 8192 x 1000 takes 148 ms in tiles of 8k
elements, 25 ms in 64k, 10.1 in 256k, 7.9 in 512k; 512 x 32000 takes 15.4 in 512k and 21.5 in 256k,
65536 x 10 takes 5.7 and 4.8 (2 cores, 1 MiB of L2 each; `benchmarks/engine.py --tiles`)."""


@dataclass(slots=True)
class Work:
    """A request on its way through the engine, with the arrays its results go to.

    Attributes:
        logits: `[outer, classes, inner]`; `[elements, 1, 1]` for losses by element.
        labels, grad_labels, pos_weight: the same, for those of the logits' shape.
        dense: the same: the gradient to the logits, or the output where there is no loss.
        label_table: distributions that broadcast.
        label_gradient: the gradient to these.
        first_row: of a block, within the rows of its stream.
        per_example: `[rows]`.
        extras: `[rows]`, by name.
    """

    request: LossRequest
    weighting: Weighting
    logits: Array
    labels: Array | None
    label_table: LabelTable | None
    pos_weight: Array | None
    per_example: Array
    dense: Array | None
    grad_labels: Array | None
    extras: dict[str, Array]
    label_gradient: LabelGradient | None = None
    first_row: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive rows of one request: whole outer indices, or a part of one."""

    work: Work
    outer: slice
    inner: slice

    @property
    def start(self) -> int:
        """The first row."""
        return int(self.outer.start * self.work.logits.shape[2] + self.inner.start)

    @property
    def rows(self) -> int:
        """The number of rows."""
        return int((self.outer.stop - self.outer.start) * (self.inner.stop - self.inner.start))

    @property
    def span(self) -> slice:
        """The rows as a slice of arrays `[rows]`."""
        return slice(self.start, self.start + self.rows)

    def block(self, array: Array) -> Array:
        """This piece of an array `[outer, classes, inner]`, as `[outer, inner, classes]`."""
        part: Array = array[self.outer, :, self.inner]
        return part.transpose(0, 2, 1)


Tile = Sequence[Piece]


def cut(works: Sequence[Work]) -> Iterator[Tile]:
    """Cuts large requests into tiles and packs small ones together into others."""
    limit = max(1, TILE_ELEMENTS // works[0].logits.shape[1])
    packed: list[Piece] = []
    room = limit
    for work in works:
        outer, _, inner = work.logits.shape
        if outer * inner > limit:
            yield from ([piece] for piece in _split(work, limit))
            continue
        if outer * inner > room:
            yield packed
            packed, room = [], limit
        packed.append(Piece(work, slice(0, outer), slice(0, inner)))
        room -= outer * inner
    if packed:
        yield packed


def _split(work: Work, limit: int) -> Iterator[Piece]:
    outer, _, inner = work.logits.shape
    if inner >= limit:
        for index in range(outer):
            for start in range(0, inner, limit):
                stop = min(start + limit, inner)
                yield Piece(work, slice(index, index + 1), slice(start, stop))
        return
    step = limit // inner
    for start in range(0, outer, step):
        yield Piece(work, slice(start, min(start + step, outer)), slice(0, inner))


class Scratch:
    """Buffers of one tile, kept from tile to tile; for one thread at a time."""

    def __init__(self) -> None:
        self._bytes: list[Array] = []
        self._taken = 0

    def restart(self) -> None:
        """Begins another tile: all buffers are free again."""
        self._taken = 0

    def next(self, shape: tuple[int, int], dtype: np.dtype[Any]) -> Array:
        """A buffer that this tile has not taken yet; what it held is lost."""
        size = math.prod(shape) * dtype.itemsize
        if len(self._bytes) == self._taken:
            self._bytes.append(np.empty(0, np.uint8))
        if self._bytes[self._taken].size < size:
            self._bytes[self._taken] = np.empty(size, np.uint8)
        self._taken += 1
        return self._bytes[self._taken - 1][:size].view(dtype).reshape(shape)


def rows_of(tile: Tile) -> int:
    """The number of rows of a tile."""
    return sum(piece.rows for piece in tile)


def joined(tile: Tile, array_of: Callable[[Weighting], Array | None]) -> Array:
    """The tile's rows of an array `[rows]` that every piece's weighting has."""
    arrays = [array_of(piece.work.weighting) for piece in tile]
    parts = [a[piece.span] for piece, a in zip(tile, arrays, strict=True) if a is not None]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def blank(tile: Tile, rows: Array, mask_of: Callable[[Weighting], Array | None]) -> None:
    """Sets to 0 the rows that the weightings' masks name; None names none."""
    for piece, part in zip(tile, split(tile, rows), strict=True):
        mask = mask_of(piece.work.weighting)
        if mask is not None:
            part[mask[piece.span]] = 0


def gather(tile: Tile, arrays: Sequence[Array], buffer: Array) -> Array:
    """The tile's rows of one array `[outer, classes, inner]` per piece, as `[rows, classes]`.

    A view where the rows lie so already and will not be written before they are read, otherwise in
    `buffer`, whose dtype decides.
    """
    is_in_place = tile[0].work.request.is_in_place
    view = buffer if is_in_place else target(tile, arrays, buffer)
    if view is buffer:
        for piece, array, rows in zip(tile, arrays, split(tile, buffer), strict=True):
            block = piece.block(array)
            np.copyto(rows.reshape(block.shape), block, casting="unsafe")  # float to float
    return view


def target(tile: Tile, arrays: Sequence[Array], buffer: Array) -> Array:
    """Where to write the tile's `[rows, classes]` for `scatter`: in place, or into `buffer`."""
    is_row_major = len(tile) == 1 and arrays[0].shape[2] == 1 and arrays[0].flags.aligned
    if is_row_major and arrays[0].dtype == buffer.dtype:
        return tile[0].block(arrays[0]).reshape(buffer.shape)
    return buffer


def scatter(tile: Tile, arrays: Sequence[Array], written: Array, buffer: Array) -> None:
    """Moves what was written for `target` to one array `[outer, classes, inner]` per piece."""
    if written is not buffer:
        return
    for piece, array, rows in zip(tile, arrays, split(tile, buffer), strict=True):
        block = piece.block(array)
        np.copyto(block, rows.reshape(block.shape), casting="unsafe")  # float to float


def split(tile: Tile, rows: Array) -> Iterator[Array]:
    """The part of an array `[rows, …]` that belongs to each piece."""
    position = 0
    for piece in tile:
        yield rows[position : position + piece.rows]
        position += piece.rows
