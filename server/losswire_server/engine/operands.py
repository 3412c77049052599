"""What a kernel gets, and what it gives back: one tile of a batch.

A kernel is a function from `Operands` to `RowResults`. It treats each row by itself, in an order
that depends on the number of classes alone, and casts nothing in the middle of a sum: so a row's
result has the same bits in any tile of any batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from losswire_proto.dtypes import Array
    from losswire_proto.losses import Loss
    from losswire_server.rows import Float64s, Int64s


@dataclass(frozen=True, slots=True)
class Operands:
    """The rows of a tile. Arrays `[rows, classes]` are in the dtype of the computation.

    Attributes:
        loss: the loss and its options.
        logits: `[rows, classes]`, not to be written.
        ids: class ids `[rows]`, all of them good to index with; None for other labels.
        labels: distributions or elements, `[rows, classes]`, not to be written; empty where
            there are none.
        scale: what each row's gradient is multiplied by, `[rows]`.
        class_weight: `[classes]`, or None.
        pos_weight: `[rows, classes]`, or None.
        dense: where the gradient to the logits goes, or the output where there is no loss; None
            where it is not asked for. Free to hold other things before.
        grad_labels: where the gradient to the labels goes, or None; likewise.
        buffer: a further array `[rows, classes]` to write, another with each call.
    """

    loss: Loss
    logits: Array
    ids: Int64s | None
    labels: Array
    scale: Float64s
    class_weight: Array | None
    pos_weight: Array | None
    dense: Array | None
    grad_labels: Array | None
    buffer: Callable[[], Array]

    def scratch(self) -> Array:
        """`dense` while it is free to hold other things, or a buffer where it was not asked for."""
        return self.buffer() if self.dense is None else self.dense


@dataclass(frozen=True, slots=True)
class RowResults:
    """Losses `[rows]`, not weighted yet, None for what is no loss; and extras `[rows]` by name.

    Losses are float64, or in the dtype of the computation where each is one element's.
    """

    loss: Array | None
    extras: Mapping[str, Array] = field(default_factory=dict)


Kernel: TypeAlias = Callable[[Operands], RowResults]
