"""The NumPy engine: the readable reference, and what serves where there is no GPU.

In: a batch of validated requests. Out: their results. Small requests share tiles, large ones are
cut; tiles are computed by several threads, since NumPy lets go of the interpreter while it
computes. Apart from the results themselves nothing is allocated that is larger than a tile.
"""

from __future__ import annotations

import math
import os
import queue
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from losswire_proto import dtypes
from losswire_server.engine import softmax, tiles
from losswire_server.engine.tiles import LabelTable, Scratch, Tile, Work
from losswire_server.engine.weighting import reduce, weigh
from losswire_server.requests import LossResult

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from losswire_proto.dtypes import Array
    from losswire_server.requests import LossRequest


class NumpyEngine:
    """Computes batches with NumPy on `threads` threads; None for one per usable core."""

    name = "numpy"

    def __init__(self, threads: int | None = None) -> None:
        self._threads = threads or len(os.sched_getaffinity(0))
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="losswire-numpy")
        self._scratch: queue.SimpleQueue[Scratch] = queue.SimpleQueue()

    @property
    def device(self) -> str:
        """The processor, by its threads and NumPy's version."""
        return f"CPU, {self._threads} threads, NumPy {np.__version__}"

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown()

    def compute(self, requests: Sequence[LossRequest]) -> list[LossResult]:
        """Computes one batch; the requests share a batch key."""
        works = [_work(request) for request in requests]
        if not works:
            return []
        pending = _Shared(tiles.cut(works, requests[0].classes))
        helpers = [
            self._pool.submit(self._compute_tiles, pending)
            for _ in range(min(self._threads, _tiles_at_most(requests)) - 1)
        ]
        self._compute_tiles(pending)
        for helper in helpers:
            helper.result()
        return [_result(work) for work in works]

    def _compute_tiles(self, pending: _Shared) -> None:
        try:
            scratch = self._scratch.get_nowait()
        except queue.Empty:
            scratch = Scratch()
        # Rows without a softmax are NaN by design, and losses beyond float32 infinite.
        with np.errstate(all="ignore"):
            for tile in pending:
                _compute_tile(tile, scratch)
        self._scratch.put(scratch)


class _Shared:
    """Tiles that several threads take from, each tile once."""

    def __init__(self, source: Iterator[Tile]) -> None:
        self._tiles: queue.SimpleQueue[Tile] = queue.SimpleQueue()
        for tile in source:
            self._tiles.put(tile)

    def __iter__(self) -> Iterator[Tile]:
        while True:
            try:
                yield self._tiles.get_nowait()
            except queue.Empty:
                return


def _tiles_at_most(requests: Sequence[LossRequest]) -> int:
    return 1 + sum(request.logits.size for request in requests) // tiles.TILE_ELEMENTS


def _work(request: LossRequest) -> Work:
    """The request as rows, with memory for its results."""
    logits, labels, call = request.logits, request.distribution, request.call
    outer = math.prod(request.example_shape[: request.axis])
    by_row = (outer, request.classes, math.prod(request.example_shape[request.axis :]))
    table, grad_labels = None, None
    if labels is not None and request.is_broadcast:
        table, labels = LabelTable.of(labels, logits.shape, request.axis), None
    elif labels is not None:
        labels = labels.reshape(by_row)
        grad_labels = np.empty(by_row, labels.dtype) if call.grad_labels else None
    return Work(
        request=request,
        weighting=weigh(request),
        logits=logits.reshape(by_row),
        labels=labels,
        label_table=table,
        per_example=np.empty(request.rows, dtypes.compute_dtype(logits.dtype)),
        grad_logits=np.empty(by_row, logits.dtype) if call.grad_logits else None,
        grad_labels=grad_labels,
        partials={},
    )


def _compute_tile(tile: Tile, scratch: Scratch) -> None:
    first = tile[0].work
    shape = (tiles.rows_of(tile), first.request.classes)
    dtype = dtypes.compute_dtype(first.logits.dtype)
    logits = tiles.gather(tile, [p.work.logits for p in tile], scratch.take(0, shape, dtype))
    scale = tiles.joined(tile, lambda weighting: weighting.scale)
    exp = scratch.take(1, shape, dtype)
    grads = [p.work.grad_logits for p in tile if p.work.grad_logits is not None]
    grad = tiles.target(tile, grads, exp) if grads else None
    if first.request.ids is not None:
        ids = tiles.joined(tile, lambda weighting: weighting.ids)
        loss = softmax.with_ids(logits, ids, scale, exp, grad)
    else:
        shifted, product = scratch.take(2, shape, dtype), scratch.take(3, shape, dtype)
        loss = softmax.with_distributions(
            logits,
            _labels(tile, scratch.take(4, shape, dtype)),
            scale,
            is_exact=first.request.call.loss.label_gradient == "exact",
            buffers=(shifted, exp, product),
            grad=grad,
            grad_labels=shifted if first.request.call.grad_labels else None,
        )
        if first.request.call.grad_labels:
            _store_label_gradients(tile, shifted)
    loss *= tiles.joined(tile, lambda weighting: weighting.weight)
    tiles.blank(tile, loss, lambda weighting: weighting.no_loss)
    for piece, part in zip(tile, tiles.split(tile, loss), strict=True):
        piece.work.per_example[piece.span] = part
    if grad is not None:
        tiles.blank(tile, grad, lambda weighting: weighting.no_grad)
        tiles.scatter(tile, grads, grad, exp)


def _labels(tile: Tile, buffer: Array) -> Array:
    """The distributions of a tile's rows; either all of a batch broadcast, or none."""
    arrays = [piece.work.labels for piece in tile if piece.work.labels is not None]
    if arrays:
        return tiles.gather(tile, arrays, buffer)
    for piece, part in zip(tile, tiles.split(tile, buffer), strict=True):
        if piece.work.label_table is not None:
            piece.work.label_table.fill(part, piece.span)
    return buffer


def _store_label_gradients(tile: Tile, grad: Array) -> None:
    tiles.blank(tile, grad, lambda weighting: weighting.no_grad)
    arrays = [piece.work.grad_labels for piece in tile if piece.work.grad_labels is not None]
    if arrays:
        tiles.scatter(tile, arrays, grad, grad)
        return
    for piece, part in zip(tile, tiles.split(tile, grad), strict=True):
        if piece.work.label_table is not None:
            piece.work.partials[piece.start] = piece.work.label_table.fold(part, piece.span)


def _result(work: Work) -> LossResult:
    request = work.request
    grad_labels = None
    if work.grad_labels is not None and request.distribution is not None:
        grad_labels = work.grad_labels.reshape(request.distribution.shape)
    elif request.call.grad_labels and work.label_table is not None:
        grad_labels = _broadcast_label_gradient(work, work.label_table)
    return LossResult(
        loss=reduce(request, work.weighting, work.per_example),
        per_example=work.per_example.reshape(request.example_shape),
        grad_logits=None
        if work.grad_logits is None
        else work.grad_logits.reshape(request.logits.shape),
        grad_labels=grad_labels,
    )


def _broadcast_label_gradient(work: Work, table: LabelTable) -> Array | None:
    labels = work.request.distribution
    if labels is None:
        return None
    total = np.zeros(table.table.shape)
    for _, partial in sorted(work.partials.items(), key=lambda item: item[0]):
        total += partial
    return table.unbroadcast(total, labels, work.request.axis, work.request.logits.ndim).astype(
        labels.dtype
    )
