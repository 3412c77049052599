"""The NumPy engine: the readable reference, and what serves where there is no GPU.

In: a batch of validated requests. Out: their results. Small requests share tiles, large ones are
cut; tiles are computed by several threads, since NumPy lets go of the interpreter while it
computes. A batch does not wait for the one before it: while that has the threads, the caller
computes. What is allocated for `[rows, classes]` is the results and a few tiles.

Unless their number is given, there is a thread for each core and each stays on its own. Threads
that wake one another, as handing over the interpreter does, are otherwise laid on one core by
Linux, and stay there for tens of milliseconds, longer than most batches: after a pause of 0.1 s,
8192 x 1000 took 10.7 ms instead of 5.6 (2 cores, Linux 6.18). Tiles go to whoever is free, so a
core that others use gets fewer; but its last one is waited for.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TYPE_CHECKING

import numpy as np

from losswire_proto import dtypes
from losswire_server.engine import tiles
from losswire_server.engine.kernels import KERNELS
from losswire_server.engine.operands import Operands
from losswire_server.engine.stacks import stacks
from losswire_server.engine.tiles import Scratch, Tile
from losswire_server.engine.works import result_of, work_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from losswire_proto.dtypes import Array
    from losswire_server.engine.operands import RowResults
    from losswire_server.requests import LossRequest, LossResult


class NumpyEngine:
    """Computes batches with NumPy on `threads` threads; None for one per usable core."""

    name = "numpy"
    quick_bytes = 128 << 10
    registrar = None

    def __init__(self, threads: int | None = None) -> None:
        cores = os.sched_getaffinity(0)
        self._threads = threads or len(cores)
        self._free_cores: queue.SimpleQueue[int] = queue.SimpleQueue()
        if threads is None:
            for core in cores:
                self._free_cores.put(core)
        self._at_work = 0
        self._counting = threading.Lock()
        self._pool = ThreadPoolExecutor(self._threads, "losswire-numpy", self._keep_to_a_core)

    @property
    def device(self) -> str:
        """The processor, by its threads and NumPy's version."""
        return f"CPU, {self._threads} threads, NumPy {np.__version__}"

    def close(self) -> None:
        """Ends the threads."""
        self._pool.shutdown()

    def compute(self, requests: Sequence[LossRequest]) -> list[LossResult]:
        """Computes one batch; the requests share a batch key."""
        if not requests:
            return []
        together = stacks(requests)
        works = [work_of(stack.whole) for stack in together]
        pending = _Shared(tiles.cut(works))
        if pending.count == 1:
            self._compute_tiles(pending)
        else:
            self._compute_shared(pending)
        results: dict[int, LossResult] = {}
        for stack, work in zip(together, works, strict=True):
            results.update(zip(stack.places, stack.results(result_of(work)), strict=True))
        return [results[place] for place in range(len(requests))]

    def _compute_shared(self, pending: _Shared) -> None:
        """Has the threads compute tiles; the caller, too, where they are at another batch."""
        with self._counting:
            is_busy = self._at_work > 0
            self._at_work += 1
        try:
            count = min(self._threads, pending.count)
            shares = [self._pool.submit(self._compute_tiles, pending) for _ in range(count)]
            if is_busy:
                self._compute_tiles(pending)
                shares = [share for share in shares if not share.cancel()]
            wait(shares)
            for share in shares:
                share.result()
        finally:
            with self._counting:
                self._at_work -= 1

    def _keep_to_a_core(self) -> None:
        """Binds the calling thread to a core that no other is bound to, if there is one."""
        with contextlib.suppress(queue.Empty, OSError):
            os.sched_setaffinity(0, {self._free_cores.get_nowait()})

    def _compute_tiles(self, pending: _Shared) -> None:
        scratch = Scratch()
        # Rows without a softmax are NaN by design, and losses beyond float32 infinite.
        with np.errstate(all="ignore"):
            for tile in pending:
                try:
                    _compute_tile(tile, scratch)
                except BaseException:
                    _abandon(tile)
                    raise


class _Shared:
    """Tiles that several threads take from, each tile once."""

    def __init__(self, source: Iterator[Tile]) -> None:
        self._tiles: queue.SimpleQueue[Tile] = queue.SimpleQueue()
        for tile in source:
            self._tiles.put(tile)
        self.count = self._tiles.qsize()

    def __iter__(self) -> Iterator[Tile]:
        while True:
            try:
                yield self._tiles.get_nowait()
            except queue.Empty:
                return


def _abandon(tile: Tile) -> None:
    """Lets no thread wait for rows that will not come."""
    for piece in tile:
        if piece.work.label_gradient is not None:
            piece.work.label_gradient.abandon()


def _compute_tile(tile: Tile, scratch: Scratch) -> None:
    first = tile[0].work
    request, dtype = first.request, dtypes.compute_dtype(first.logits.dtype)
    shape = (tiles.rows_of(tile), first.logits.shape[1])

    def buffer() -> Array:
        return scratch.next(shape, dtype)

    scratch.restart()
    logits = tiles.gather(tile, [piece.work.logits for piece in tile], buffer())
    denses = [piece.work.dense for piece in tile if piece.work.dense is not None]
    dense_buffer = buffer()
    weights = [piece.work.pos_weight for piece in tile if piece.work.pos_weight is not None]
    class_weight = request.class_weight
    ids = tiles.joined(tile, lambda weighting: weighting.ids) if request.reading == "ids" else None
    operands = Operands(
        loss=request.call.loss,
        logits=logits,
        ids=ids,
        labels=_labels(tile, buffer()) if request.reading not in {"ids", "none"} else logits[:0],
        scale=tiles.joined(tile, lambda weighting: weighting.scale),
        class_weight=None if class_weight is None else class_weight.astype(dtype),
        pos_weight=tiles.gather(tile, weights, buffer()) if weights else None,
        dense=tiles.target(tile, denses, dense_buffer) if denses else None,
        grad_labels=buffer() if request.call.grad_labels else None,
        buffer=buffer,
    )
    results = KERNELS[request.call.loss.name](operands)
    is_nan_anywhere = _store_rows(tile, results)
    for gradient in (operands.dense, operands.grad_labels):
        if gradient is not None and results.loss is not None:
            if is_nan_anywhere:
                # One NaN for all: that of arithmetic differs in sign with the order of operands.
                gradient[np.isnan(results.loss) | np.isnan(operands.scale)] = np.nan
            tiles.blank(tile, gradient, lambda weighting: weighting.no_grad)
    if operands.dense is not None:
        tiles.scatter(tile, denses, operands.dense, dense_buffer)
    if operands.grad_labels is not None:
        _store_label_gradients(tile, operands.grad_labels)


def _store_rows(tile: Tile, results: RowResults) -> bool:
    """Weighs the losses and hands each piece its rows; whether any loss or scale is NaN."""
    for name, values in results.extras.items():
        if values.dtype.kind == "f":
            _has_nan(values)
        for piece, part in tiles.split(tile, values):
            piece.work.extras[name][piece.span] = part
    if results.loss is None:
        return False
    losses = results.loss
    weight = tiles.joined(tile, lambda weighting: weighting.weight)
    if not _is_one(weight):
        losses = losses * weight
    is_nan = _has_nan(losses)
    tiles.blank(tile, losses, lambda weighting: weighting.no_loss)
    for piece, part in tiles.split(tile, losses):
        piece.work.per_example[piece.span] = part
    return is_nan or any(piece.work.weighting.is_scale_nan for piece in tile)


def _is_one(weight: Array) -> bool:
    """Whether the weight is 1 for all rows, known from one of them."""
    return weight.strides == (0,) and weight.size > 0 and bool(weight[0] == 1.0)


def _has_nan(rows: Array) -> bool:
    """Whether there is NaN. All of it is made one: arithmetic's differs in sign."""
    # The largest of all is NaN if one is.
    is_nan = bool(np.isnan(np.maximum.reduce(rows, initial=-np.inf)))
    if is_nan:
        rows[np.isnan(rows)] = np.nan
    return is_nan


def _labels(tile: Tile, buffer: Array) -> Array:
    """The labels of a tile's rows; either all of a batch broadcast, or none."""
    arrays = [piece.work.labels for piece in tile if piece.work.labels is not None]
    if arrays:
        return tiles.gather(tile, arrays, buffer)
    for piece, part in tiles.split(tile, buffer):
        if piece.work.label_table is not None:
            piece.work.label_table.fill(part, piece.span)
    return buffer


def _store_label_gradients(tile: Tile, grad: Array) -> None:
    arrays = [piece.work.grad_labels for piece in tile if piece.work.grad_labels is not None]
    if arrays:
        tiles.scatter(tile, arrays, grad, grad)
        return
    for piece, part in tiles.split(tile, grad):
        work = piece.work
        if work.label_gradient is not None and work.label_table is not None:
            index = work.label_table.index[piece.span]
            work.label_gradient.add(work.first_row + piece.start, index, part)
