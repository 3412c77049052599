"""What an option is: a dataclass field with a default and a check.

A check gets the option's name and value and raises `InvalidField`, which names option, what is
allowed and what came; the same text on both sides of the wire.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import field, fields
from typing import Any, Literal, TypeAlias, get_args

from losswire_proto.rules import InvalidField

Reading: TypeAlias = Literal["ids", "distribution", "elements", "none"]
"""What labels are: one class id per example, one distribution over the classes per example, one
number per element of the logits, or not there at all."""

Reduction: TypeAlias = Literal["none", "sum", "mean"]
NormalizerRule: TypeAlias = Literal["valid", "weights", "size"]
EmptyMean: TypeAlias = Literal["nan", "zero"]
OutOfRange: TypeAlias = Literal["error", "nan", "ignore"]
LabelGradient: TypeAlias = Literal["exact", "tf"]
Extra: TypeAlias = Literal["logsumexp", "argmax", "entropy"]
ClipOrder: TypeAlias = Literal["normalize_first", "clip_first"]
FocalForm: TypeAlias = Literal["softmax", "sigmoid"]

Check: TypeAlias = Callable[[str, object], None]


def option(default: Any, check: Check) -> Any:
    """A dataclass field that is an option: its default and its check."""
    return field(default=default, metadata={"check": check})


def check_fields(definition: Any) -> None:
    """Runs the check of every option of a dataclass of options."""
    for each in fields(definition):
        if "check" in each.metadata:
            each.metadata["check"](each.name, getattr(definition, each.name))


def optional(check: Check) -> Check:
    """A check that lets None through."""

    def checked(name: str, value: object) -> None:
        if value is not None:
            check(name, value)

    return checked


def one_of(literal: Any) -> Check:
    """A check that a value is one of a `Literal`'s strings."""
    choices = get_args(literal)

    def check(name: str, value: object) -> None:
        if not isinstance(value, str) or value not in choices:
            raise InvalidField(name, "one of " + ", ".join(map(repr, choices)), repr(value))

    return check


def some_of(literal: Any) -> Check:
    """A check that a value is a tuple of a `Literal`'s strings."""
    choices = get_args(literal)

    def check(name: str, value: object) -> None:
        if not isinstance(value, tuple) or not set(value) <= set(choices):
            raise InvalidField(name, "some of " + ", ".join(map(repr, choices)), repr(value))

    return check


def number(allowed: str, is_allowed: Callable[[float], bool]) -> Check:
    """A check that a value is a finite number for which `is_allowed`."""

    def check(name: str, value: object) -> None:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        # Not by isfinite, which cannot take integers beyond float64.
        if is_number and abs(value) <= sys.float_info.max and is_allowed(value):  # type: ignore[arg-type]  # a number
            return
        raise InvalidField(name, allowed, repr(value))

    return check


fraction = number("a number in [0, 1]", lambda value: 0 <= value <= 1)
positive = number("a finite number > 0", lambda value: value > 0)
not_negative = number("a finite number >= 0", lambda value: value >= 0)
below_half = number("a number in [0, 0.5)", lambda value: 0 <= value < 0.5)


def integer(name: str, value: object) -> None:
    """Refuses what is not an integer of 64 bits."""
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        raise InvalidField(name, "an integer of 64 bits", repr(value))


def flag(name: str, value: object) -> None:
    """Refuses what is neither True nor False."""
    if not isinstance(value, bool):
        raise InvalidField(name, "True or False", repr(value))


def normalizer(name: str, value: object) -> None:
    """Refuses what is neither a rule nor a number that is finite and >= 0."""
    rules = get_args(NormalizerRule)
    if isinstance(value, str) and value in rules:
        return
    allowed = "one of " + ", ".join(map(repr, rules)) + ", or a finite number >= 0"
    number(allowed, lambda given: given >= 0)(name, value)
