"""What a chunk hands to its kernel, and where it lies on the device.

In: a chunk. Out: its fields, the arrays of `launches.ARGUMENTS`, each with the parts that it is put
together from and the arrays that its parts are copied to, one after another in one piece of memory.

The order is that of the struct's use: inputs, what is both, results. So what goes up lies together,
and so does what comes down.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from losswire_proto import dtypes
from losswire_server.engine import launches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from losswire_proto.dtypes import Array
    from losswire_server.engine.chunks import Chunk
    from losswire_server.rows import Weighting

ALIGNMENT: Final = 256
"""Bytes at a multiple of which every field begins."""


@dataclass(frozen=True, slots=True)
class Field:
    """One array of a chunk.

    Attributes:
        name: in `launches.ARGUMENTS`; the gradient to the logits, or the output, is "logits".
        dtype: of its elements on the device.
        offset: of its first byte.
        count: its elements.
        sources: what it holds before the launch; none where it holds nothing.
        targets: where its parts go afterwards; none where it is not wanted.
    """

    name: str
    dtype: np.dtype[Any]
    offset: int
    count: int
    sources: Sequence[Array]
    targets: Sequence[Array]

    @property
    def nbytes(self) -> int:
        """Its size."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Layout:
    """The fields of a chunk, by their offsets.

    Attributes:
        fault: where the first row at fault comes back, or `launches.NO_FAULT`.
        label_rows: the gradients of labels that broadcast, `[rows, classes]`; None for others.
        weight_of_all, scale_of_all: for all rows, where they have no field.
    """

    fields: Sequence[Field]
    nbytes: int
    fault: Array
    label_rows: Array | None
    weight_of_all: float
    scale_of_all: float

    def arguments(self, chunk: Chunk, base: int, options: dict[str, float]) -> Array:
        """The kernel's argument for a chunk that lies at `base`."""
        record = np.zeros((), launches.ARGUMENTS)
        for field in self.fields:
            record[field.name] = base + field.offset
            if field.name == "logits" and field.targets:
                record["dense"] = base + field.offset
            elif field.name == "segments":
                record["segment_count"] = field.count
        record["rows"], record["classes"] = chunk.rows, chunk.pieces[0].work.logits.shape[1]
        record["weight_of_all"], record["scale_of_all"] = self.weight_of_all, self.scale_of_all
        for name, value in options.items():
            record[name] = value
        return record


class _Builder:
    """Lays fields one after another."""

    def __init__(self) -> None:
        self.fields: list[Field] = []
        self.nbytes = 0

    def add(
        self,
        name: str,
        dtype: np.dtype[Any],
        sources: Sequence[Array] = (),
        targets: Sequence[Array] = (),
    ) -> None:
        count = sum(array.size for array in sources or targets)
        if count:
            self.fields.append(Field(name, dtype, self.nbytes, count, sources, targets))
            self.nbytes += -(-count * dtype.itemsize // ALIGNMENT) * ALIGNMENT


def layout_of(chunk: Chunk) -> Layout:
    """Lays out a chunk."""
    pieces, build = chunk.pieces, _Builder()
    first, request = pieces[0].work, chunk.request
    real = dtypes.compute_dtype(first.logits.dtype)
    _add_labels(chunk, build)
    if request.class_weight is not None:
        build.add("class_weight", real, [request.class_weight])
    build.add("pos_weight", real, [p.part(p.work.pos_weight) for p in _having(chunk, "pos_weight")])
    weight_of_all = _add_rows(chunk, build, "weight", lambda weighting: weighting.weight)
    scale_of_all = _add_rows(chunk, build, "scale", lambda weighting: weighting.scale)
    if any(mask is not None for piece in pieces for mask in _masks(piece.work.weighting)):
        build.add("flags", np.dtype(np.uint8), [_flags(chunk)])
    if chunk.is_strided:
        build.add("segments", launches.SEGMENT, [_segments(chunk)])
    dense = [p.part(p.work.dense) for p in _having(chunk, "dense")]
    build.add("logits", first.logits.dtype, [p.part(p.work.logits) for p in pieces], dense)
    fault = np.full(1, launches.NO_FAULT, np.uint64)
    build.add("fault", fault.dtype, [fault.copy()], [fault])
    if request.reading != "none":
        build.add("per_example", real, (), [p.work.per_example[p.span] for p in pieces])
    for name, values in first.extras.items():
        build.add(name, values.dtype, (), [p.work.extras[name][p.span] for p in pieces])
    label_rows = _add_label_gradients(chunk, build, real)
    return Layout(build.fields, build.nbytes, fault, label_rows, weight_of_all, scale_of_all)


def _having(chunk: Chunk, name: str) -> Iterator[Any]:
    """The pieces whose work has such an array: all of them, or none."""
    return (piece for piece in chunk.pieces if getattr(piece.work, name) is not None)


def _add_labels(chunk: Chunk, build: _Builder) -> None:
    labels = [p.part(p.work.labels) for p in _having(chunk, "labels")]
    tables = [_table(piece) for piece in _having(chunk, "label_table")]
    if labels:
        build.add("labels", labels[0].dtype, labels)
    elif tables:
        begins = np.cumsum([0] + [len(table) for table, _ in tables])
        build.add("labels", tables[0][0].dtype, [table for table, _ in tables])
        indices = [index + begin for (_, index), begin in zip(tables, begins, strict=False)]
        build.add("ids", np.dtype(np.int32), indices)
    elif chunk.request.reading == "ids":
        every = ((piece, piece.work.weighting.ids) for piece in chunk.pieces)
        ids = [array[piece.span] for piece, array in every if array is not None]
        build.add("ids", np.dtype(np.int32), ids)


def _table(piece: Any) -> tuple[Array, Array]:
    """The distributions that a piece's rows have, and which of them each row has."""
    table, index = piece.work.label_table.table, piece.work.label_table.index[piece.span]
    first, last = int(index.min()), int(index.max())
    if last - first < piece.rows:
        return table[first : last + 1], index - first
    used, index = np.unique(index, return_inverse=True)
    return table[used], index


def _add_rows(
    chunk: Chunk, build: _Builder, name: str, array_of: Callable[[Weighting], Array]
) -> float:
    """Adds a field `[rows]`; one number for all rows needs none and is returned."""
    arrays = [array_of(piece.work.weighting) for piece in chunk.pieces]
    numbers = {array[:1].tobytes() for array in arrays}  # by their bits: 0 is not -0
    if len(numbers) > 1 or any(array.strides != (0,) for array in arrays):
        parts = [array[p.span] for array, p in zip(arrays, chunk.pieces, strict=True)]
        build.add(name, np.dtype(np.float64), parts)
    return float(arrays[0][0])


def _masks(weighting: Weighting) -> tuple[Array | None, Array | None]:
    return weighting.no_loss, weighting.no_grad


def _flags(chunk: Chunk) -> Array:
    flags = np.zeros(chunk.rows, np.uint8)
    position = 0
    for piece in chunk.pieces:
        part = flags[position : position + piece.rows]
        for mask, bit in zip(
            _masks(piece.work.weighting), (launches.NO_LOSS, launches.NO_GRADIENT), strict=True
        ):
            if mask is not None:
                part |= mask[piece.span] * np.uint8(bit)
        position += piece.rows
    return flags


def _segments(chunk: Chunk) -> Array:
    segments = np.zeros(len(chunk.pieces), launches.SEGMENT)
    rows, classes = 0, chunk.pieces[0].work.logits.shape[1]
    for segment, piece in zip(segments, chunk.pieces, strict=True):
        segment["first_row"], segment["offset"] = rows, rows * classes
        segment["inner"] = piece.inner
        rows += piece.rows
    return segments


def _add_label_gradients(chunk: Chunk, build: _Builder, real: np.dtype[Any]) -> Array | None:
    """Adds the field of gradients to labels: to each label, or rows to be summed up."""
    if not chunk.request.call.grad_labels:
        return None
    arrays = [p.part(p.work.grad_labels) for p in _having(chunk, "grad_labels")]
    if arrays:
        build.add("grad_labels", arrays[0].dtype, (), arrays)
        return None
    rows = np.empty((chunk.rows, chunk.pieces[0].work.logits.shape[1]), real)
    build.add("grad_labels", real, (), [rows])
    return rows
