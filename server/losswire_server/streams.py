"""Streamed requests: rows in blocks, computed as they arrive.

In: what was sent before the first row, then blocks of rows, in order. Out: for each block a request
that the batcher takes like any other, and a summary once all rows have been computed. What is held
for the whole are the labels and weights, and what follows from them; of logits and gradients, only
the blocks in flight.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from losswire_proto import dtypes
from losswire_proto.losses import SequenceLoss
from losswire_proto.rules import Spec
from losswire_server.engine.weighting import reduce, reduced, weigh
from losswire_server.errors import InvalidRequest
from losswire_server.requests import UNKNOWN, Block, LossRequest
from losswire_server.rows import LabelGradient, LabelTable, LossSum

if TYPE_CHECKING:
    from losswire_proto.dtypes import Array
    from losswire_server.requests import LossResult


@dataclass(frozen=True, slots=True)
class StreamStart:
    """What is known before the first row, validated.

    Attributes:
        whole: the request, with logits that take no memory and hold nothing; so do its labels
            where they come with the blocks.
        has_block_labels: whether they do.
    """

    whole: LossRequest
    has_block_labels: bool

    @property
    def held_bytes(self) -> int:
        """Bytes held until the stream ends: labels, weights, and what is derived for each row."""
        whole = self.whole
        held = 0 if self.has_block_labels or whole.labels is None else whole.labels.nbytes
        for weight in (whole.sample_weight, whole.class_weight, whole.pos_weight):
            held += 0 if weight is None else weight.nbytes
        if whole.reading == "ids" or whole.sample_weight is not None:
            held += whole.rows * 16
        if whole.reading == "distribution" and not self.has_block_labels:
            held += whole.rows * 8 + (held * 8 if whole.call.grad_labels else 0)
        return held


class Stream:
    """A streamed request on its way: makes its blocks, and takes their results in order."""

    def __init__(self, start: StreamStart) -> None:
        whole = start.whole
        self._whole = whole
        self._has_block_labels = start.has_block_labels
        self._weighting = weigh(whole)
        self._arrived = 0
        self._table: LabelTable | None = None
        self._label_gradient: LabelGradient | None = None
        if whole.reading == "distribution" and whole.labels is not None:
            if not start.has_block_labels:
                self._table = LabelTable.of(whole.labels, whole.logits.shape, whole.axis)
            if self._table is not None and whole.call.grad_labels:
                self._label_gradient = LabelGradient(self._table)
        self._sum = LossSum()
        self._losses: list[Array] = []

    @property
    def is_serial(self) -> bool:
        """Whether a block can only be computed after the one before it."""
        return self._label_gradient is not None

    @property
    def row_spec(self) -> Spec:
        """One row of the logits."""
        classes = 1 if self._whole.call.loss.is_elementwise else self._whole.classes
        return Spec(self._whole.logits.dtype, (classes,))

    @property
    def label_spec(self) -> Spec | None:
        """One row of the labels that come with the blocks; None where they do not."""
        labels = self._whole.labels
        if not self._has_block_labels or labels is None:
            return None
        return Spec(labels.dtype, self.row_spec.shape)

    def check_rows(self, first_row: int, rows: int) -> None:
        """Refuses a block that does not follow the one before it.

        Raises:
            InvalidRequest: names the row that was expected.
        """
        if first_row != self._arrived:
            raise InvalidRequest(
                f"block.first_row: expected {self._arrived}, the rows before it have been sent,"
                f" received {first_row}"
            )
        left = self._whole.rows - self._arrived
        if not left:
            raise InvalidRequest(f"block: expected {self._arrived} rows in all, received more")
        if not 1 <= rows <= left:
            raise InvalidRequest(
                f"block.rows: expected 1 to {left}, the rows not sent yet, received {rows}"
            )

    def block(self, logits: Array, labels: Array | None) -> LossRequest:
        """The request for the next rows.

        Args:
            logits: `[rows, classes]`.
            labels: the same, for labels that come with the blocks.
        """
        whole, rows = self._whole, len(logits)
        span = slice(self._arrived, self._arrived + rows)
        self._arrived += rows
        if whole.reading == "elements" and labels is None and whole.labels is not None:
            labels = whole.labels.reshape(-1, 1)[span]
        elif whole.reading == "ids" and whole.labels is not None:
            labels = whole.labels.reshape(-1)[span]
        pos_weight = whole.pos_weight
        if pos_weight is not None:
            pos_weight = np.broadcast_to(pos_weight, whole.logits.shape).flat[span][:, None]
        table = None if self._table is None else self._table.part(span)
        weighting = self._weighting.part(span)
        return replace(
            whole,
            logits=logits,
            axis=1,
            labels=labels,
            sample_weight=None,
            pos_weight=pos_weight,
            block=Block(span.start, weighting, table, self._label_gradient),
            form=UNKNOWN,
        )

    def take(self, result: LossResult) -> None:
        """Adds the losses of the next block that was computed."""
        if result.per_example is None:
            return
        if isinstance(self._whole.call.loss, SequenceLoss):
            self._losses.append(result.per_example)
        elif self._whole.call.reduction != "none":
            self._sum.add(result.per_example)

    def summary(self) -> tuple[Array | None, Array | None]:
        """The reduced loss, and the gradient to labels that were sent whole; None for neither.

        Raises:
            InvalidRequest: rows are missing.
        """
        whole = self._whole
        if self._arrived != whole.rows:
            raise InvalidRequest(
                f"block: expected {whole.rows} rows in all, received {self._arrived}"
            )
        loss: Array | None = None
        if isinstance(whole.call.loss, SequenceLoss):
            none = np.empty(0, dtypes.compute_dtype(whole.logits.dtype))
            losses = np.concatenate([none, *self._losses])
            loss = reduce(whole, self._weighting, losses)
        elif whole.reading != "none" and whole.call.reduction != "none":
            loss = reduced(whole, self._weighting, self._sum)
        if self._label_gradient is None or whole.labels is None:
            return loss, None
        return loss, self._label_gradient.value(whole.labels, whole.axis, whole.logits.ndim)

    def close(self) -> None:
        """Lets nobody wait for blocks that will not come."""
        if self._label_gradient is not None:
            self._label_gradient.abandon()
