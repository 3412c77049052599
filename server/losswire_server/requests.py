"""What travels between the stages: a request that has been validated, and its result.

Validation makes a `LossRequest`; admission, batcher and engine pass it on; the engine answers
with a `LossResult`, which `replies` turns into a message. Neither knows of protobuf or gRPC.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias, cast

import numpy as np

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


UNKNOWN: Final = cast("Form", None)
"""The form of a request that is to work it out."""


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
        destinations: arrays that results are written to, by the names in `result_specs`; other
            results get memory of their own.
        mapped_bytes: of logits and labels that lie in memory of the client.
        is_in_place: one of them lies over the logits or labels, which are then read before.
        block: for a block of a streamed request, what it knows of the whole; its labels are then
            those that came with it, and its result has no reduced loss.
        parts: how many requests of one form lie along its first axis, each reduced by itself.
        form: what follows from all but its elements; worked out where it is not known yet.
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
    parts: int = 1
    form: Form = UNKNOWN

    def __post_init__(self) -> None:
        if self.form is UNKNOWN:
            object.__setattr__(self, "form", Form.of(self))  # the way of frozen dataclasses

    @property
    def classes(self) -> int:
        """Length of the class axis."""
        return self.form.classes

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of the per-example losses."""
        return self.form.example_shape

    @property
    def rows(self) -> int:
        """Number of examples."""
        return self.form.rows

    @property
    def is_broadcast(self) -> bool:
        """Whether the labels are distributions that several examples share."""
        return self.form.is_broadcast

    @property
    def nbytes(self) -> int:
        """Bytes held for this request until its reply is sent: its tensors and its results'."""
        return self.form.nbytes

    @property
    def result_specs(self) -> dict[str, rules.Spec]:
        """Dtypes and shapes of the results, by the names of their fields and in their order.

        Without the reduced loss, and without the gradient to labels that blocks share.
        """
        logits = rules.Spec.of(self.logits)
        if self.reading == "none":
            return {"output": logits}
        dtype = dtypes.compute_dtype(logits.dtype)
        specs = {"per_example": rules.Spec(dtype, self.example_shape)}
        for name in ("logsumexp", "argmax", "entropy"):
            if name in getattr(self.call.loss, "extras", ()):
                own = np.dtype(np.int64) if name == "argmax" else dtype
                specs[name] = rules.Spec(own, self.example_shape)
        is_summed_up = self.block is not None and self.block.label_table is not None
        if self.call.grad_labels and self.labels is not None and not is_summed_up:
            specs["grad_labels"] = rules.Spec.of(self.labels)
        if self.call.grad_logits:
            specs["grad_logits"] = logits
        return specs

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
        key = self.form.batch_key
        if weight is not None:
            key = (*key, weight.dtype.name, weight.tobytes())
        return (*key, id(self)) if self.is_in_place else key


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """What requests have in common that differ only in their elements.

    Worked out once for all requests that are found to be of one form; others have one each.

    Attributes:
        classes: length of the class axis.
        example_shape: shape of the per-example losses.
        rows: number of examples.
        is_broadcast: whether the labels are distributions that several examples share.
        nbytes: of tensors and results.
        batch_key: without class weights.
    """

    classes: int
    example_shape: tuple[int, ...]
    rows: int
    is_broadcast: bool
    nbytes: int
    batch_key: BatchKey

    @classmethod
    def of(cls, request: LossRequest) -> Form:
        """The form of one request."""
        call, logits, labels = request.call, request.logits, request.labels
        classes = int(logits.shape[request.axis])
        examples = tuple(logits.shape)
        if not call.loss.is_elementwise:
            examples = rules.example_shape(rules.Spec.of(logits), request.axis)
        rows = math.prod(examples)
        is_broadcast = False
        if request.block is not None:
            is_broadcast = request.block.label_table is not None
        elif labels is not None and request.reading == "distribution":
            is_broadcast = bool(labels.shape != logits.shape)
        key = (
            call.loss,
            classes,
            logits.dtype.name,
            request.reading,
            is_broadcast,
            request.pos_weight is None,
            call.grad_logits,
            call.grad_labels,
        )
        return cls(classes, examples, rows, is_broadcast, _held(request, rows, is_broadcast), key)


def _held(request: LossRequest, rows: int, is_broadcast: bool) -> int:
    """Bytes of a request's tensors and results."""
    labels = 0 if request.labels is None else request.labels.nbytes
    results = rows * dtypes.compute_dtype(request.logits.dtype).itemsize
    if request.call.grad_logits or request.reading == "none":
        results += request.logits.nbytes
    if request.call.grad_labels:
        results += labels
        if is_broadcast:  # sums in float64
            results += request.logits.size * 8
    return int(request.logits.nbytes + labels + results)


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
