"""What travels between the stages: a request that has been validated, and its result.

Validation makes a `LossRequest`; admission, batcher and engine pass it on; the engine answers
with a `LossResult`, which `replies` turns into a message. Neither knows of protobuf or gRPC.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from losswire_proto import dtypes, rules

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping

    from losswire_proto.dtypes import Array
    from losswire_proto.losses import LossCall
    from losswire_proto.options import Reading
    from losswire_server.rows import LabelGradient, LabelTable, Weighting


@dataclass(frozen=True, slots=True)
class Block:
    """What a block of rows knows of the streamed request that it is a part of.

    Attributes:
        first_row: its first row within the whole.
        weighting: its part of the whole's weighting.
        label_table: its part of distributions that were sent whole; None for other labels.
        label_gradient: the sum that its gradient to these goes to, where it is asked for.
    """

    first_row: int
    weighting: Weighting
    label_table: LabelTable | None = None
    label_gradient: LabelGradient | None = None


@dataclass(frozen=True, slots=True)
class LossRequest:
    """A validated request.

    Attributes:
        call: which loss, and how; its axis may be negative.
        logits: in the shape that was sent, C-contiguous, read-only.
        axis: the class axis counted from the front.
        labels: as the loss takes them; None for losses without labels.
        reading: what the labels are: "ids" in the examples' shape and any integer dtype, a
            "distribution" of floats that broadcasts to the logits, "elements" of floats in the
            logits' shape, or "none".
        sample_weight: finite floats that broadcast to the examples; None for 1 everywhere.
        class_weight: finite floats >= 0, `[classes]`; None for 1 everywhere.
        pos_weight: finite floats >= 0 that broadcast to the logits; None for 1 everywhere.
        destinations: arrays that results are written to, by the names of their fields in
            `ComputeResponse`; other results get memory of their own.
        mapped_bytes: of logits and labels that lie in memory of the client.
        is_in_place: one of them lies over the logits or labels, which are then read before.
        block: for a block of a streamed request, what it knows of the whole; its labels are then
            those that came with it, and its result has no reduced loss.
    """

    call: LossCall
    logits: Array
    axis: int
    labels: Array | None
    reading: Reading
    sample_weight: Array | None = None
    class_weight: Array | None = None
    pos_weight: Array | None = None
    destinations: Mapping[str, Array] = field(default_factory=dict)
    mapped_bytes: int = 0
    is_in_place: bool = False
    block: Block | None = None

    @property
    def classes(self) -> int:
        """Length of the class axis."""
        return int(self.logits.shape[self.axis])

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of the per-example losses."""
        if self.call.loss.is_elementwise:
            return tuple(self.logits.shape)
        return rules.example_shape(rules.Spec.of(self.logits), self.axis)

    @property
    def rows(self) -> int:
        """Number of examples."""
        return math.prod(self.example_shape)

    @property
    def is_broadcast(self) -> bool:
        """Whether the labels are distributions that several examples share."""
        if self.block is not None:
            return self.block.label_table is not None
        if self.labels is None or self.reading != "distribution":
            return False
        return bool(self.labels.shape != self.logits.shape)

    @property
    def nbytes(self) -> int:
        """Bytes held for this request until its reply is sent: its tensors and its results'."""
        labels = 0 if self.labels is None else self.labels.nbytes
        results = self.rows * dtypes.compute_dtype(self.logits.dtype).itemsize
        if self.call.grad_logits or self.reading == "none":
            results += self.logits.nbytes
        if self.call.grad_labels:
            results += labels
            if self.is_broadcast:  # sums in float64
                results += self.logits.size * 8
        return self.logits.nbytes + labels + results

    @property
    def held_bytes(self) -> int:
        """The part of `nbytes` that is this server's own memory, not shared by the client."""
        shared = sum(array.nbytes for array in self.destinations.values())
        return self.nbytes - shared - self.mapped_bytes

    @property
    def batch_key(self) -> BatchKey:
        """Requests with equal keys can be computed together.

        One whose results lie over its inputs shares no batch: where another of the batch fails, it
        could not be computed again.
        """
        weight = self.class_weight
        return (
            self.call.loss,
            self.classes,
            self.logits.dtype.name,
            self.reading,
            self.is_broadcast,
            None if weight is None else (weight.dtype.name, weight.tobytes()),
            self.pos_weight is None,
            self.call.grad_logits,
            self.call.grad_labels,
            id(self) if self.is_in_place else None,
        )


BatchKey: TypeAlias = "tuple[Hashable, ...]"


@dataclass(frozen=True, slots=True)
class LossResult:
    """The results of one request.

    Attributes:
        loss: the scalar of a sum or mean; None for reduction "none", where it is `per_example`.
        per_example: losses with sample weights applied, in the examples' shape.
        grad_logits: shape and dtype of the logits; None where it was not asked for.
        grad_labels: shape and dtype of the labels; None where it was not asked for.
        output: shape and dtype of the logits; None for losses.
        extras: further results in the examples' shape, by name.
    """

    loss: Array | None
    per_example: Array | None
    grad_logits: Array | None = None
    grad_labels: Array | None = None
    output: Array | None = None
    extras: Mapping[str, Array] = field(default_factory=dict)
