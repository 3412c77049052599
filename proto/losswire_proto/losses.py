"""What can be asked for: one definition of each loss and its options.

A loss is a frozen dataclass whose fields are its options, each with its default and its check.
Everything else follows from it: the keywords of the client's method (a test holds them equal),
the message that carries them (fields of the same names), validation on both sides, and what the
engine is handed. A `LossCall` adds what all losses share: axis, reduction, wanted gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Final, Literal, TypeAlias, get_args

from losswire_proto.rules import InvalidField

Reduction: TypeAlias = Literal["none", "sum", "mean"]
NormalizerRule: TypeAlias = Literal["valid", "weights", "size"]
EmptyMean: TypeAlias = Literal["nan", "zero"]
OutOfRange: TypeAlias = Literal["error", "nan", "ignore"]
LabelGradient: TypeAlias = Literal["exact", "tf"]

Check: TypeAlias = Callable[[str, object], None]


def one_of(literal: Any) -> Check:
    """A check that a value is one of a `Literal`'s strings."""
    choices = get_args(literal)

    def check(name: str, value: object) -> None:
        if value not in choices:
            raise InvalidField(name, "one of " + ", ".join(map(repr, choices)), repr(value))

    return check


def check_integer(name: str, value: object) -> None:
    """Refuses what is not an integer of 64 bits."""
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        raise InvalidField(name, "an integer of 64 bits", repr(value))


def check_optional_integer(name: str, value: object) -> None:
    """As `check_integer`, or None."""
    if value is not None:
        check_integer(name, value)


def check_flag(name: str, value: object) -> None:
    """Refuses what is neither True nor False."""
    if not isinstance(value, bool):
        raise InvalidField(name, "True or False", repr(value))


def check_normalizer(name: str, value: object) -> None:
    """Refuses what is neither a rule nor a number that is finite and >= 0."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if math.isfinite(value) and value >= 0:
            return
    elif value in get_args(NormalizerRule):
        return
    rules = ", ".join(map(repr, get_args(NormalizerRule)))
    raise InvalidField(name, f"one of {rules}, or a finite number >= 0", repr(value))


def option(default: Any, check: Check) -> Any:
    """A dataclass field that is an option: its default and its check."""
    return field(default=default, metadata={"check": check})


def check_fields(definition: Any) -> None:
    """Runs the check of every option of a dataclass of options."""
    for each in fields(definition):
        if "check" in each.metadata:
            each.metadata["check"](each.name, getattr(definition, each.name))


@dataclass(frozen=True, slots=True)
class SoftmaxCrossEntropy:
    """Options of softmax cross-entropy; formulas in the documentation of the client's method."""

    name: ClassVar[str] = "softmax_cross_entropy"

    ignore_index: int | None = option(None, check_optional_integer)
    out_of_range: OutOfRange = option("error", one_of(OutOfRange))
    label_gradient: LabelGradient = option("exact", one_of(LabelGradient))


LOSSES: Final[Mapping[str, type[SoftmaxCrossEntropy]]] = {
    loss.name: loss for loss in (SoftmaxCrossEntropy,)
}
"""The losses of this version, by their names on the wire and in the client."""


@dataclass(frozen=True, slots=True)
class LossCall:
    """One loss as it is asked for, without its tensors.

    Raises:
        InvalidField: an option outside what is allowed; names option, allowed and received.
    """

    loss: SoftmaxCrossEntropy = field(default_factory=SoftmaxCrossEntropy)
    axis: int = option(-1, check_integer)
    reduction: Reduction = option("none", one_of(Reduction))
    normalizer: NormalizerRule | float = option("valid", check_normalizer)
    empty_mean: EmptyMean = option("nan", one_of(EmptyMean))
    grad_logits: bool = option(False, check_flag)
    grad_labels: bool = option(False, check_flag)

    def __post_init__(self) -> None:
        check_fields(self.loss)
        check_fields(self)
