"""What travels between the stages: a request that has been validated, and its result.

Validation makes a `LossRequest`; admission, batcher and engine pass it on; the engine answers
with a `LossResult`, which `replies` turns into a message. Neither knows of protobuf or gRPC.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from losswire_proto import dtypes, rules

if TYPE_CHECKING:
    from collections.abc import Hashable

    from losswire_proto.dtypes import Array
    from losswire_proto.losses import LossCall


@dataclass(frozen=True, slots=True)
class LossRequest:
    """A validated request.

    Attributes:
        call: which loss, and how; its axis may be negative.
        logits: in the shape that was sent, C-contiguous, read-only.
        axis: the class axis counted from the front.
        ids: class ids in the examples' shape, any integer dtype; None for distributions.
        distribution: floats that broadcast to the logits; None for ids.
        sample_weight: finite floats that broadcast to the examples; None for 1 everywhere.
    """

    call: LossCall
    logits: Array
    axis: int
    ids: Array | None
    distribution: Array | None
    sample_weight: Array | None

    @property
    def classes(self) -> int:
        """Length of the class axis."""
        return int(self.logits.shape[self.axis])

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of the per-example losses."""
        return rules.example_shape(rules.Spec.of(self.logits), self.axis)

    @property
    def rows(self) -> int:
        """Number of examples."""
        return math.prod(self.example_shape)

    @property
    def is_broadcast(self) -> bool:
        """Whether the labels are distributions that several examples share."""
        return self.distribution is not None and self.distribution.shape != self.logits.shape

    @property
    def nbytes(self) -> int:
        """Bytes held for this request until its reply is sent: its tensors and its results'."""
        labels = self.ids if self.ids is not None else self.distribution
        held = self.logits.nbytes + (0 if labels is None else labels.nbytes)
        results = self.rows * dtypes.compute_dtype(self.logits.dtype).itemsize
        if self.call.grad_logits:
            results += self.logits.nbytes
        if self.call.grad_labels and labels is not None:
            results += labels.nbytes
        return held + results

    @property
    def batch_key(self) -> BatchKey:
        """Requests with equal keys can be computed together."""
        return (
            self.call.loss.name,
            self.classes,
            self.logits.dtype.name,
            None if self.distribution is None else self.distribution.dtype.name,
            self.is_broadcast,
            self.call.loss.label_gradient,
            self.call.grad_logits,
            self.call.grad_labels,
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
    """

    loss: Array | None
    per_example: Array
    grad_logits: Array | None
    grad_labels: Array | None
