"""What is known of rows besides their logits, and what is summed over them.

Shared by whole requests and by blocks of streamed ones: a block has its part of the vectors, and
the sums are the same however the rows were cut, to the bit.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from losswire_proto.dtypes import Array

Float64s: TypeAlias = npt.NDArray[np.float64]
Int64s: TypeAlias = npt.NDArray[np.int64]
Bools: TypeAlias = npt.NDArray[np.bool_]

SUM_ROWS: Final = 1 << 16
"""Losses that are summed at once; the sums of so many are then summed themselves."""


@dataclass(frozen=True, slots=True)
class Weighting:
    """What each row of a request counts for, rows in row-major order of the examples.

    Attributes:
        ids: the class of each row, safe to index with (0 where the row is ignored or invalid);
            None where labels are no ids.
        weight: what each loss is multiplied by; NaN for rows whose id is out of range and shall
            be NaN.
        scale: what each gradient is multiplied by.
        no_loss: rows whose loss is 0 whatever their logits hold; None for none.
        no_grad: the same for gradients: ignored rows, or all of a mean over nothing that is 0.
        divisor: of the mean; 1 for other reductions. One for each output of sequence_loss.
        is_empty_zero: the mean is over nothing, and that shall be 0.
        is_scale_nan: it is over nothing, and all its gradients are NaN.
    """

    ids: Int64s | None
    weight: Float64s
    scale: Float64s
    no_loss: Bools | None
    no_grad: Bools | None
    divisor: float | Float64s
    is_empty_zero: bool = False
    is_scale_nan: bool = False

    def part(self, span: slice) -> Weighting:
        """The same for some of the rows."""
        return replace(
            self,
            ids=None if self.ids is None else self.ids[span],
            weight=self.weight[span],
            scale=self.scale[span],
            no_loss=None if self.no_loss is None else self.no_loss[span],
            no_grad=None if self.no_grad is None else self.no_grad[span],
        )


@dataclass(frozen=True, slots=True)
class LabelTable:
    """Distributions that broadcast: each distinct row once, and which row each example has."""

    table: Array
    index: Array

    @classmethod
    def of(cls, labels: Array, shape: tuple[int, ...], axis: int) -> LabelTable:
        """Labels of any shape that broadcasts to `shape`, with the class axis at `axis`."""
        aligned = labels.reshape((1,) * (len(shape) - labels.ndim) + labels.shape)
        by_row = np.moveaxis(aligned, axis, -1)
        table = by_row.reshape(-1, by_row.shape[-1])
        numbers = np.arange(table.shape[0]).reshape(by_row.shape[:-1])
        examples = shape[:axis] + shape[axis + 1 :]
        return cls(table, np.broadcast_to(numbers, examples).reshape(-1))

    def part(self, span: slice) -> LabelTable:
        """The same for some of the examples."""
        return LabelTable(self.table, self.index[span])

    def fill(self, rows: Array, span: slice) -> None:
        """Writes the distributions of the examples of `span` into `rows`."""
        np.copyto(rows, self.table[self.index[span]], casting="unsafe")  # float to float


class LabelGradient:
    """The gradient to distributions that broadcast: a sum over examples, in float64.

    Rows are added in their order whichever thread computed them, so that the sum does not depend
    on how they were cut.
    """

    def __init__(self, table: LabelTable) -> None:
        self._total: Float64s = np.zeros(table.table.shape)
        self._rows = 0
        self._is_abandoned = False
        self._turn = threading.Condition()

    def add(self, first_row: int, index: Array, grad: Array) -> None:
        """Adds the gradients of consecutive rows to the rows of the table that `index` names.

        Waits until all rows before them have been added. Rows that have been added themselves, by
        a batch that was computed again after a fault, count once.

        Raises:
            RuntimeError: these never will be.
        """
        if self._total.shape[1] == 1:
            # Row-major first: along other strides the order of a sum depends on how many rows.
            grad = np.ascontiguousarray(grad).sum(axis=1, keepdims=True)
        with self._turn:
            self._turn.wait_for(lambda: self._rows >= first_row or self._is_abandoned)
            if self._is_abandoned:
                raise RuntimeError("a part of the gradient to the labels could not be computed")
            added = self._rows - first_row
            if added >= len(grad):
                return
            np.add.at(self._total, index[added:], grad[added:])
            self._rows += len(grad) - added
            self._turn.notify_all()

    def abandon(self) -> None:
        """Ends all waiting: some rows will not come."""
        with self._turn:
            self._is_abandoned = True
            self._turn.notify_all()

    def value(self, labels: Array, axis: int, rank: int) -> Array:
        """The sum in the shape and dtype of the labels that the table was made from."""
        aligned = (1,) * (rank - labels.ndim) + labels.shape
        by_row = aligned[:axis] + aligned[axis + 1 :] + (aligned[axis],)
        grad: Array = np.moveaxis(self._total.reshape(by_row), -1, axis).reshape(labels.shape)
        with np.errstate(all="ignore"):  # what is beyond the labels' dtype is infinite
            return grad.astype(labels.dtype)


class LossSum:
    """The sum of losses that are added in their order, however they are cut.

    float64 sums of `SUM_ROWS` rows each, in NumPy's pairwise order, and the sum of these.
    """

    def __init__(self) -> None:
        self._sums: list[np.float64] = []
        self._begun: Float64s = np.empty(0)

    def add(self, losses: Array) -> None:
        """Adds the losses of the next rows."""
        rows: Float64s = losses.reshape(-1).astype(np.float64)
        if self._begun.size:
            rows = np.concatenate([self._begun, rows])
        whole = rows.size - rows.size % SUM_ROWS
        with np.errstate(all="ignore"):
            self._sums += [rows[at : at + SUM_ROWS].sum() for at in range(0, whole, SUM_ROWS)]
        self._begun = rows[whole:]

    def value(self) -> np.float64:
        """The sum so far."""
        with np.errstate(all="ignore"):
            total: np.float64 = np.asarray([*self._sums, self._begun.sum()]).sum()
        return total
