"""What can be asked for: one definition of each loss and its options.

A loss is a frozen dataclass whose fields are its options, each with its default and its check.
Everything else follows from it: the keywords of the client's method (a test holds them equal),
the message that carries them (fields of the same names), validation on both sides, and what the
engine is handed. A `LossCall` adds what all losses share: axis, reduction, wanted gradients.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final

from losswire_proto import options
from losswire_proto.options import (
    ClipOrder,
    EmptyMean,
    Extra,
    FocalForm,
    LabelGradient,
    NormalizerRule,
    OutOfRange,
    Reading,
    Reduction,
    check_fields,
    option,
)

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Loss:
    """What the definitions of all losses have in common.

    Attributes:
        name: of the client's method and of the field in `LossOptions`.
        readings: how its labels may be read; the first that fits is taken.
        weights: further tensors that it takes, by their fields in `ComputeRequest`.
        input_name: what its first tensor is called.
        labels_name: what its labels are called.
        has_label_gradient: whether the gradient to distributions can be asked for.
        needs_sequences: whether logits must be `[batch, time, classes]`.
    """

    name: ClassVar[str]
    readings: ClassVar[tuple[Reading, ...]]
    weights: ClassVar[frozenset[str]] = frozenset({"sample_weight"})
    input_name: ClassVar[str] = "logits"
    labels_name: ClassVar[str] = "labels"
    has_label_gradient: ClassVar[bool] = False
    needs_sequences: ClassVar[bool] = False

    @property
    def allowed_readings(self) -> tuple[Reading, ...]:
        """How labels may be read with these options."""
        return self.readings

    @property
    def is_elementwise(self) -> bool:
        """Whether each element of the logits is an example of its own."""
        return self.allowed_readings == ("elements",)

    @property
    def ignored_id(self) -> int | None:
        """The id whose examples count for nothing, for losses that have one."""
        ignored: int | None = getattr(self, "ignore_index", None)
        return ignored

    @property
    def bad_ids(self) -> OutOfRange:
        """What ids out of range do; an error for losses that leave no choice."""
        rule: OutOfRange = getattr(self, "out_of_range", "error")
        return rule


@dataclass(frozen=True, slots=True)
class SoftmaxCrossEntropy(Loss):
    """Cross-entropy between labels and softmax of logits."""

    name: ClassVar[str] = "softmax_cross_entropy"
    readings: ClassVar[tuple[Reading, ...]] = ("ids", "distribution")
    weights: ClassVar[frozenset[str]] = frozenset({"sample_weight", "class_weight"})
    has_label_gradient: ClassVar[bool] = True

    ignore_index: int | None = option(None, options.optional(options.integer))
    out_of_range: OutOfRange = option("error", options.one_of(OutOfRange))
    label_gradient: LabelGradient = option("exact", options.one_of(LabelGradient))
    label_smoothing: float = option(0.0, options.fraction)
    z_loss: float = option(0.0, options.not_negative)
    softcap: float | None = option(None, options.optional(options.positive))
    temperature: float = option(1.0, options.positive)
    extras: tuple[Extra, ...] = option((), options.some_of(Extra))


@dataclass(frozen=True, slots=True)
class SigmoidCrossEntropy(Loss):
    """Cross-entropy between labels and sigmoid of logits, element by element."""

    name: ClassVar[str] = "sigmoid_cross_entropy"
    readings: ClassVar[tuple[Reading, ...]] = ("elements",)
    weights: ClassVar[frozenset[str]] = frozenset({"sample_weight", "pos_weight"})

    label_smoothing: float = option(0.0, options.fraction)


@dataclass(frozen=True, slots=True)
class CategoricalCrossEntropy(Loss):
    """Cross-entropy between labels and probabilities."""

    name: ClassVar[str] = "categorical_cross_entropy"
    readings: ClassVar[tuple[Reading, ...]] = ("ids", "distribution")
    input_name: ClassVar[str] = "probabilities"

    ignore_index: int | None = option(None, options.optional(options.integer))
    out_of_range: OutOfRange = option("error", options.one_of(OutOfRange))
    epsilon: float = option(1e-7, options.below_half)
    label_smoothing: float = option(0.0, options.fraction)
    clip_order: ClipOrder = option("normalize_first", options.one_of(ClipOrder))


@dataclass(frozen=True, slots=True)
class BinaryCrossEntropy(Loss):
    """Cross-entropy between labels and probabilities, element by element."""

    name: ClassVar[str] = "binary_cross_entropy"
    readings: ClassVar[tuple[Reading, ...]] = ("elements",)
    input_name: ClassVar[str] = "probabilities"

    epsilon: float = option(1e-7, options.below_half)
    label_smoothing: float = option(0.0, options.fraction)


@dataclass(frozen=True, slots=True)
class KlDivergence(Loss):
    """Kullback-Leibler divergence of softmax of logits from a target."""

    name: ClassVar[str] = "kl_divergence"
    readings: ClassVar[tuple[Reading, ...]] = ("distribution",)
    labels_name: ClassVar[str] = "target"

    target_is_logits: bool = option(False, options.flag)
    temperature: float = option(1.0, options.positive)
    scale_by_temperature_squared: bool = option(False, options.flag)


@dataclass(frozen=True, slots=True)
class Focal(Loss):
    """Focal loss over softmax or sigmoid of logits."""

    name: ClassVar[str] = "focal"
    readings: ClassVar[tuple[Reading, ...]] = ("ids", "distribution", "elements")

    gamma: float = option(2.0, options.not_negative)
    alpha: float | None = option(None, options.optional(options.fraction))
    form: FocalForm = option("softmax", options.one_of(FocalForm))
    ignore_index: int | None = option(None, options.optional(options.integer))

    @property
    def allowed_readings(self) -> tuple[Reading, ...]:
        """The sigmoid form decides about each element by itself."""
        return ("elements",) if self.form == "sigmoid" else ("ids", "distribution")


@dataclass(frozen=True, slots=True)
class Softmax(Loss):
    """Softmax along the axis."""

    name: ClassVar[str] = "softmax"
    readings: ClassVar[tuple[Reading, ...]] = ("none",)
    weights: ClassVar[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class LogSoftmax(Loss):
    """Logarithm of softmax along the axis."""

    name: ClassVar[str] = "log_softmax"
    readings: ClassVar[tuple[Reading, ...]] = ("none",)
    weights: ClassVar[frozenset[str]] = frozenset()


@dataclass(frozen=True, slots=True)
class SequenceLoss(Loss):
    """Weighted cross-entropy of sequences of class ids, averaged over time, batch or both."""

    name: ClassVar[str] = "sequence_loss"
    readings: ClassVar[tuple[Reading, ...]] = ("ids",)
    labels_name: ClassVar[str] = "targets"
    needs_sequences: ClassVar[bool] = True

    average_across_timesteps: bool = option(True, options.flag)
    average_across_batch: bool = option(True, options.flag)


LOSSES: Final[Mapping[str, type[Loss]]] = {
    loss.name: loss
    for loss in (
        SoftmaxCrossEntropy,
        SigmoidCrossEntropy,
        CategoricalCrossEntropy,
        BinaryCrossEntropy,
        KlDivergence,
        Focal,
        Softmax,
        LogSoftmax,
        SequenceLoss,
    )
}
"""The losses of this version, by their names on the wire and in the client."""


@dataclass(frozen=True, slots=True)
class LossCall:
    """One loss as it is asked for, without its tensors.

    Raises:
        InvalidField: an option outside what is allowed; names option, allowed and received.
    """

    loss: Loss = field(default_factory=SoftmaxCrossEntropy)
    axis: int = option(-1, options.integer)
    reduction: Reduction = option("none", options.one_of(Reduction))
    normalizer: NormalizerRule | float = option("valid", options.normalizer)
    empty_mean: EmptyMean = option("nan", options.one_of(EmptyMean))
    grad_logits: bool = option(False, options.flag)
    grad_labels: bool = option(False, options.flag)

    def __post_init__(self) -> None:
        check_fields(self.loss)
        check_fields(self)
