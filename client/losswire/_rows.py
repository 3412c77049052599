"""Arrays of any layout as rows: one row of classes for each example, without a copy.

Rows are the examples in row-major order of the array's shape without the class axis. A row view
has the class axis last and as few axes before it as the layout allows.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from losswire_proto.dtypes import Array


def row_view(array: Array, axis: int | None) -> Array:
    """The array with its class axis last, at least `[rows, classes]`; None for one class a row."""
    shape = array.shape
    if not array.flags.c_contiguous:
        view = array[..., None] if axis is None else np.moveaxis(array, axis, -1)
        return view if view.ndim > 1 else view[None]
    if axis is None:
        return array.reshape(-1, 1)
    outer, inner = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    if inner == 1:
        return array.reshape(outer, shape[axis])
    return array.reshape(outer, shape[axis], inner).transpose(0, 2, 1)


def spans(view: Array, start: int, stop: int) -> Iterator[Array]:
    """Parts of a row view, in order, that together are the rows from `start` to `stop`."""
    if view.ndim == 2:
        yield view[start:stop]
        return
    each = math.prod(view.shape[1:-1])
    while start < stop:
        index, within = divmod(start, each)
        if within or stop - start < each:
            end = min(stop, (index + 1) * each)
            yield from spans(view[index], within, within + end - start)
        else:
            end = stop - stop % each
            yield view[index : end // each]
        start = end


def read_rows(view: Array, start: int, stop: int) -> Array:
    """Rows of a row view as `[rows, classes]`, row-major; a view where they lie so already."""
    parts = list(spans(view, start, stop))
    if len(parts) == 1:
        return np.ascontiguousarray(parts[0].reshape(-1, view.shape[-1]))
    rows = np.empty((stop - start, view.shape[-1]), view.dtype)
    for own, part in _paired(rows, parts):
        own[...] = part
    return rows


def write_rows(view: Array, start: int, rows: Array) -> None:
    """Writes `[rows, classes]` to a row view, from row `start` on."""
    for own, part in _paired(rows, spans(view, start, start + len(rows))):
        part[...] = own


def _paired(rows: Array, parts: Iterable[Array]) -> Iterator[tuple[Array, Array]]:
    """Each part with the rows that it is, in its shape."""
    position = 0
    for part in parts:
        count = math.prod(part.shape[:-1])
        yield rows[position : position + count].reshape(part.shape), part
        position += count
