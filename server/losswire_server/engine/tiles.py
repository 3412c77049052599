"""Requests cut into tiles of rows that fit the cache, and tiles put together from requests.

In: requests with where their results go. Out: tiles, each a few pieces of requests; a tile gathers
its rows class-last and in the compute dtype (looking at the request's own memory where that is how
it lies there), and scatters its gradients back. A request's cuts depend on its own shape alone.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from losswire_server.engine.layout import FEW_CLASSES, is_by_class, shaped
from losswire_server.engine.works import Piece

if TYPE_CHECKING:
    from losswire_proto.dtypes import Array
    from losswire_server.engine.works import Work
    from losswire_server.rows import Weighting

TILE_ELEMENTS: Final = 1 << 20
"""Elements of a tile: 4 MiB of float32. Smaller tiles would stay in L2, but their many short calls
hand the interpreter's lock to and fro, which costs more: 8192 x 1000 takes 23 ms in tiles of 64k
elements, 8.5 in 256k, 6.9 in 512k and in 1M, 7.3 in 2M; 512 x 32000 takes 45, 16, 10.8, 9.9, 10.9;
65536 x 10 takes 7.6, 3.3, 2.4, 2.0, 2.0 (2 cores of 1 MiB of L2; `benchmarks/engine.py --tiles`).
One thread alone is fastest in the same ones, so their size does not follow the cache's."""

PACKED_ELEMENTS: Final = 1 << 18
"""Elements up to which small requests share a tile. What is larger is cut, for several threads."""

_ROW_EFFORT: Final = 16
"""Elements whose computation takes as long as what is done once for each row."""

_ARRAYS: Final = {"distribution": 2, "elements": 4}
"""How much more memory a tile's arrays take, by the reading of its labels: what tiles of one size
would push out of the cache."""

_VERY_FEW: Final = 12
"""Classes up to which scattering class by class is faster than row by row."""

_PAGE: Final = 4096
_SMALLEST_ITEM: Final = 4  # bytes of a float32, the smallest that is computed in


Tile = Sequence[Piece]


def cut(works: Sequence[Work]) -> Iterator[Tile]:
    """Cuts large requests into tiles and packs small ones together into others."""
    classes = works[0].logits.shape[1]
    effort = classes + _ROW_EFFORT if 1 < classes <= FEW_CLASSES else classes
    elements = TILE_ELEMENTS // _ARRAYS.get(works[0].request.reading, 1)
    limit, small = max(1, elements // effort), max(1, PACKED_ELEMENTS // effort)
    packed: list[Piece] = []
    room = small
    for work in works:
        outer, _, inner = work.logits.shape
        if outer * inner > small:
            yield from ([piece] for piece in _split(work, limit))
            continue
        if outer * inner > room:
            yield packed
            packed, room = [], small
        packed.append(Piece(work, slice(0, outer), slice(0, inner)))
        room -= outer * inner
    if packed:
        yield packed


def _split(work: Work, limit: int) -> Iterator[Piece]:
    outer, _, inner = work.logits.shape
    if inner >= limit:
        for index in range(outer):
            for columns in _shares(inner, limit):
                yield Piece(work, slice(index, index + 1), columns)
        return
    for part in _shares(outer, limit // inner):
        yield Piece(work, part, slice(0, inner))


def _shares(count: int, limit: int) -> Iterator[slice]:
    """Consecutive shares of about `limit` at most, as equal as can be, an even number of them.

    So that two threads, or four, have as much to do.
    """
    shares = -(-count // limit)
    shares = min(count, shares + shares % 2)
    edges = [i * count // shares for i in range(shares + 1)]
    if (edges[1] * _SMALLEST_ITEM) % _PAGE == 0:
        # Classes that lie whole pages apart want the same few places of the cache.
        edges[1:-1] = [edge + 16 * (i % 2) for i, edge in enumerate(edges[1:-1], 1)]
    for start, stop in itertools.pairwise(edges):
        yield slice(start, stop)


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
        return shaped(self._bytes[self._taken - 1][:size].view(dtype), *shape)


def rows_of(tile: Tile) -> int:
    """The number of rows of a tile."""
    return sum(piece.rows for piece in tile)


def joined(tile: Tile, array_of: Callable[[Weighting], Array | None]) -> Array:
    """The tile's rows of an array `[rows]` that every piece's weighting has."""
    arrays = ((piece, array_of(piece.work.weighting)) for piece in tile)
    parts = [array[piece.span] for piece, array in arrays if array is not None]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def blank(tile: Tile, rows: Array, mask_of: Callable[[Weighting], Array | None]) -> None:
    """Sets to 0 the rows that the weightings' masks name; None names none."""
    for piece, part in split(tile, rows):
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
        for array, (piece, rows) in zip(arrays, split(tile, buffer), strict=True):
            block = piece.block(array)
            _move(block, rows.reshape(block.shape))
    return view


def target(tile: Tile, arrays: Sequence[Array], buffer: Array) -> Array:
    """Where to write the tile's `[rows, classes]` for `scatter`: in place, or into `buffer`."""
    if len(tile) != 1 or arrays[0].dtype != buffer.dtype or not arrays[0].flags.aligned:
        return buffer
    block = tile[0].block(arrays[0])
    outer, inner, classes = block.shape
    lies_so = outer == 1 if is_by_class(classes) and classes > 1 else inner == 1
    return block.reshape(buffer.shape) if lies_so else buffer


def scatter(tile: Tile, arrays: Sequence[Array], written: Array, buffer: Array) -> None:
    """Moves what was written for `target` to one array `[outer, classes, inner]` per piece."""
    if written is not buffer:
        return
    for array, (piece, rows) in zip(arrays, split(tile, buffer), strict=True):
        block = piece.block(array)
        _move(rows.reshape(block.shape), block)


def _move(source: Array, block: Array) -> None:
    """Copies `[outer, inner, classes]` into another layout and float dtype."""
    classes, apart = block.shape[2], source.strides[2]
    if source.dtype != block.dtype:
        if "V" in source.dtype.kind + block.dtype.kind and is_by_class(classes):
            # bfloat16 is converted by vector code only where memory is contiguous.
            source = source.astype(block.dtype)
        np.copyto(block, source, casting="unsafe")  # float to float
    elif apart >= _PAGE and (1 < classes <= _VERY_FEW or apart % _PAGE == 0):
        # Class by class; `copyto` goes row by row, and so to and fro between the pages.
        np.positive(source.transpose(2, 0, 1), out=block.transpose(2, 0, 1))
    else:
        np.copyto(block, source)


def split(tile: Tile, rows: Array) -> Iterator[tuple[Piece, Array]]:
    """Each piece with its part of an array `[rows, …]`."""
    if len(tile) == 1:
        yield tile[0], rows
        return
    position = 0
    for piece in tile:
        yield piece, rows[position : position + piece.rows]
        position += piece.rows
