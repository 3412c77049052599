"""A request on its way through an engine: its rows, and the memory that its results go to.

In: a validated request. Out: a `Work`, whose arrays an engine reads and fills piece by piece, and
in the end the result that they make. Shared by all engines.

Rows are the examples in row-major order. Logits are seen as `[outer, classes, inner]`, so the row
of example (o, i) is o * inner + i, whatever the class axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from losswire_proto import dtypes
from losswire_server.engine.weighting import reduce, weigh
from losswire_server.requests import LossResult
from losswire_server.rows import LabelGradient, LabelTable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from losswire_proto.dtypes import Array
    from losswire_server.requests import LossRequest
    from losswire_server.rows import Weighting


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


class Piece:
    """Consecutive rows of one request: whole outer indices, or a part of one.

    Attributes:
        start: the first row.
        rows: the number of rows.
        inner: how many rows lie side by side, an element of each.
        span: the rows as a slice of arrays `[rows]`.
    """

    __slots__ = ("_inner", "_outer", "inner", "rows", "span", "start", "work")

    def __init__(self, work: Work, outer: slice, inner: slice) -> None:
        self.work, self._outer, self._inner = work, outer, inner
        self.start: int = outer.start * work.logits.shape[2] + inner.start
        self.inner: int = inner.stop - inner.start
        self.rows: int = (outer.stop - outer.start) * self.inner
        self.span = slice(self.start, self.start + self.rows)

    @classmethod
    def whole(cls, work: Work) -> Piece:
        """All rows of a request."""
        outer, _, inner = work.logits.shape
        return cls(work, slice(0, outer), slice(0, inner))

    def part(self, array: Array) -> Array:
        """This piece of an array `[outer, classes, inner]`, as it lies there."""
        return array[self._outer, :, self._inner]

    def block(self, array: Array) -> Array:
        """This piece of an array `[outer, classes, inner]`, as `[outer, inner, classes]`."""
        return self.part(array).transpose(0, 2, 1)

    def parts(self, limit: int) -> Iterator[Piece]:
        """The same rows, in order, in pieces of at most `limit`."""
        outer, inner = self._outer, self._inner
        if self.inner > limit:
            for index in range(outer.start, outer.stop):
                for start in range(inner.start, inner.stop, limit):
                    columns = slice(start, min(start + limit, inner.stop))
                    yield Piece(self.work, slice(index, index + 1), columns)
            return
        for start in range(outer.start, outer.stop, limit // self.inner):
            stop = min(start + limit // self.inner, outer.stop)
            yield Piece(self.work, slice(start, stop), inner)


def work_of(request: LossRequest) -> Work:
    """The request as rows, with memory for its results."""
    logits, call = request.logits, request.call
    if call.loss.is_elementwise:
        by_row = (request.rows, 1, 1)
    else:
        outer = math.prod(request.example_shape[: request.axis])
        by_row = (outer, request.classes, math.prod(request.example_shape[request.axis :]))
    block = request.block
    labels, table, label_gradient = None, None, None
    if block is not None and block.label_table is not None:
        table, label_gradient = block.label_table, block.label_gradient
    elif request.labels is not None and request.is_broadcast:
        table = LabelTable.of(request.labels, logits.shape, request.axis)
        label_gradient = LabelGradient(table) if call.grad_labels else None
    elif request.labels is not None and request.reading != "ids":
        labels = request.labels.reshape(by_row)
    pos_weight = None
    if request.pos_weight is not None:
        pos_weight = np.broadcast_to(request.pos_weight, logits.shape).reshape(by_row)
    dtype = dtypes.compute_dtype(logits.dtype)
    is_dense = call.grad_logits or request.reading == "none"
    dense = "output" if request.reading == "none" else "grad_logits"
    grad_labels = None
    if call.grad_labels and labels is not None:
        grad_labels = _destination(request, "grad_labels", by_row, labels.dtype)
    return Work(
        request=request,
        weighting=weigh(request) if block is None else block.weighting,
        logits=logits.reshape(by_row),
        labels=labels,
        label_table=table,
        pos_weight=pos_weight,
        per_example=_destination(request, "per_example", (request.rows,), dtype),
        dense=_destination(request, dense, by_row, logits.dtype) if is_dense else None,
        grad_labels=grad_labels,
        extras={
            name: _destination(
                request, name, (request.rows,), np.dtype(np.int64) if name == "argmax" else dtype
            )
            for name in getattr(call.loss, "extras", ())
        },
        label_gradient=label_gradient,
        first_row=0 if block is None else block.first_row,
    )


def _destination(
    request: LossRequest, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Array:
    """Where a result is written to: where the request says, or memory of its own."""
    if name in request.destinations:
        return request.destinations[name].reshape(shape)
    return np.empty(shape, dtype)


def result_of(work: Work) -> LossResult:
    """The result of a request all of whose rows have been computed."""
    request = work.request
    dense = None if work.dense is None else work.dense.reshape(request.logits.shape)
    if request.reading == "none":
        return LossResult(None, None, output=dense)
    grad_labels = None
    if work.grad_labels is not None and request.labels is not None:
        grad_labels = work.grad_labels.reshape(request.labels.shape)
    elif work.label_gradient is not None and request.labels is not None:
        grad_labels = work.label_gradient.value(request.labels, request.axis, request.logits.ndim)
        if "grad_labels" in request.destinations:
            request.destinations["grad_labels"][...] = grad_labels
    return LossResult(
        loss=reduce(request, work.weighting, work.per_example) if request.block is None else None,
        per_example=work.per_example.reshape(request.example_shape),
        grad_logits=dense,
        grad_labels=grad_labels,
        extras={name: array.reshape(request.example_shape) for name, array in work.extras.items()},
    )
