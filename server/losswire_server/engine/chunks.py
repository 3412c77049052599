"""Batches cut into chunks: as many rows as one launch computes, of one request or of several.

In: requests with where their results go. Out: chunks, each of rows that one kernel takes: with the
classes of all one after another or of all not, and of labels of one dtype. A row's kernel follows
from its own request, so no neighbour and no cut can change a bit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from losswire_proto import dtypes
from losswire_server.engine.works import Piece

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from losswire_server.engine.works import Work
    from losswire_server.requests import LossRequest

ROW_BYTES: Final = 48
"""The most that a row takes besides what it has for each class: its id, weight, scale and flags,
its loss and extras."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """Rows that are computed by one launch."""

    pieces: Sequence[Piece]

    @property
    def rows(self) -> int:
        """The number of rows."""
        return sum(piece.rows for piece in self.pieces)

    @property
    def request(self) -> LossRequest:
        """Any of the requests, for what they have in common; with labels where it has a table."""
        work = self.pieces[0].work
        if work.request.labels is None and work.label_table is not None:
            return replace(work.request, labels=work.label_table.table)
        return work.request

    @property
    def is_strided(self) -> bool:
        """Whether classes lie apart."""
        return is_strided(self.pieces[0].work)

    def smaller(self) -> list[Chunk]:
        """The same rows in chunks of half as many; nothing where there is but one row."""
        return list(_packed(self.pieces, -(-self.rows // 2))) if self.rows > 1 else []


def is_strided(work: Work) -> bool:
    """Whether the classes of a row lie apart."""
    _, classes, inner = work.logits.shape
    return bool(classes > 1 and inner > 1)


def row_bytes(work: Work) -> int:
    """Bytes of the device that a row takes at most, alignment aside."""
    request, itemsize = work.request, dtypes.compute_dtype(work.logits.dtype).itemsize
    per_class = work.logits.dtype.itemsize
    if work.labels is not None:
        per_class += work.labels.dtype.itemsize
    if work.label_table is not None:
        per_class += work.label_table.table.dtype.itemsize
    if work.pos_weight is not None:
        per_class += itemsize
    if request.call.grad_labels:
        per_class += itemsize if work.labels is None else work.labels.dtype.itemsize
    segment = 24 if is_strided(work) else 0
    classes: int = work.logits.shape[1]
    return ROW_BYTES + segment + classes * int(per_class)


def cut(works: Sequence[Work], nbytes: int) -> Iterator[Chunk]:
    """Cuts a batch into chunks that take about `nbytes` of the device, or a row each."""
    by_kernel: dict[tuple[bool, str], list[Work]] = {}
    for work in works:
        if work.logits.shape[0] and work.logits.shape[2]:
            labels = work.labels if work.label_table is None else work.label_table.table
            dtype = "" if labels is None else labels.dtype.name
            by_kernel.setdefault((is_strided(work), dtype), []).append(work)
    for alike in by_kernel.values():
        rows = max(1, nbytes // row_bytes(alike[0]))
        yield from _packed([Piece.whole(work) for work in alike], rows)


def _packed(pieces: Sequence[Piece], limit: int) -> Iterator[Chunk]:
    """The same rows in chunks of at most `limit`, in order."""
    taken: list[Piece] = []
    room = limit
    for piece in pieces:
        for part in piece.parts(limit):
            if part.rows > room:
                yield Chunk(taken)
                taken, room = [], limit
            taken.append(part)
            room -= part.rows
    if taken:
        yield Chunk(taken)
