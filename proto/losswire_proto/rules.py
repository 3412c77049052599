"""The rules a request obeys, in the words both sides use.

In: shapes, dtypes and values, whether they come from a caller's arrays or from a message. Out:
nothing, or what follows from them (an axis, a reading of the labels). What breaks a rule raises
`InvalidField`, which the client turns into `losswire.InvalidInput` before a byte is sent and the
server into INVALID_ARGUMENT: the same text either way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np

from losswire_proto import dtypes

if TYPE_CHECKING:
    from losswire_proto.dtypes import Array
    from losswire_proto.losses import LossCall

MAX_RANK: Final = 32
"""Dimensions of a tensor; beyond any model, within what NumPy 2 and CUDA indexing carry."""

Reading: TypeAlias = Literal["ids", "distribution"]
"""What labels are: one class id per example, or one distribution over the classes."""


class InvalidField(ValueError):  # noqa: N818 -- it names a field; each side wraps it in its own error
    """A field of a request broke a rule.

    Attributes:
        field: name of the argument or message field, such as `"labels"`.
        expected: what the rule allows.
        received: what came instead.
    """

    def __init__(self, field: str, expected: str, received: object) -> None:
        super().__init__(f"{field}: expected {expected}, received {received}")
        self.field = field
        self.expected = expected
        self.received = received


@dataclass(frozen=True, slots=True)
class Spec:
    """What a tensor looks like without its elements."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, array: Array) -> Spec:
        """The spec of an array."""
        return cls(array.dtype, array.shape)

    def __str__(self) -> str:
        return f"{self.dtype.name} {list(self.shape)}"


def check_shape(field: str, shape: tuple[int, ...], itemsize: int) -> None:
    """Refuses dimensions that are negative, too many, or overflow 63 bits of bytes."""
    if len(shape) > MAX_RANK:
        raise InvalidField(f"{field}.shape", f"at most {MAX_RANK} dimensions", len(shape))
    if any(length < 0 for length in shape):
        raise InvalidField(f"{field}.shape", "dimensions >= 0", list(shape))
    # A zero elsewhere must not hide dimensions that no machine could hold.
    if math.prod(length for length in shape if length) * itemsize >= 2**63:
        raise InvalidField(f"{field}.shape", "product(shape) * itemsize below 2^63", list(shape))


def class_axis(logits: Spec, axis: int, field: str = "logits") -> int:
    """Checks logits and axis; returns the axis counted from the front.

    Raises:
        InvalidField: not a float dtype, rank 0, an axis outside [-rank, rank), zero classes.
    """
    if not dtypes.is_float(logits.dtype):
        allowed = ", ".join(dtype.name for dtype in dtypes.FLOATS)
        raise InvalidField(f"{field}.dtype", f"one of {allowed}", logits.dtype.name)
    rank = len(logits.shape)
    if rank == 0:
        raise InvalidField(f"{field}.shape", "at least one dimension", "a scalar")
    if not -rank <= axis < rank:
        raise InvalidField("axis", f"an integer in [{-rank}, {rank}) for {field} {logits}", axis)
    if logits.shape[axis] == 0:
        raise InvalidField(
            f"{field}.shape", f"at least one class along axis {axis}", list(logits.shape)
        )
    return axis % rank


def example_shape(logits: Spec, axis: int) -> tuple[int, ...]:
    """The shape of the examples: the logits' without the class axis."""
    return logits.shape[:axis] + logits.shape[axis + 1 :]


def labels_reading(logits: Spec, axis: int, labels: Spec) -> Reading:
    """Decides whether labels are class ids or distributions.

    Raises:
        InvalidField: neither reading fits; the message explains both.
    """
    examples = example_shape(logits, axis)
    if dtypes.is_id(labels.dtype) and labels.shape == examples:
        return "ids"
    if dtypes.is_float(labels.dtype) and is_broadcastable(labels.shape, logits.shape):
        return "distribution"
    raise InvalidField(
        "labels",
        f"class ids (an integer dtype, shape {list(examples)}: logits' shape without axis {axis})"
        f" or distributions (a float dtype, broadcastable to {list(logits.shape)})",
        labels,
    )


def check_labels(call: LossCall, *, logits: Spec, axis: int, labels: Array) -> Reading:
    """Checks labels against logits and options; returns how they are to be read.

    Raises:
        InvalidField: neither reading fits, ids out of range, or an option that the other reading
            would need.
    """
    reading = labels_reading(logits, axis, Spec.of(labels))
    loss = call.loss
    if reading == "ids":
        if call.grad_labels:
            raise InvalidField("gradients", "'labels' only with float labels", "class ids")
        if loss.out_of_range == "error":
            check_ids(labels, logits.shape[axis], loss.ignore_index)
    elif loss.ignore_index is not None:
        raise InvalidField("ignore_index", "None with distributions", loss.ignore_index)
    return reading


def is_broadcastable(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether an array of `shape` broadcasts to exactly `target`, by NumPy's rules."""
    if len(shape) > len(target):
        return False
    pairs = zip(reversed(shape), reversed(target), strict=False)
    return all(length in (1, wanted) for length, wanted in pairs)


def check_weight(field: str, weight: Array, target: tuple[int, ...]) -> None:
    """Refuses weights that do not fit the examples or are not finite.

    Raises:
        InvalidField: not a float dtype, not broadcastable to `target`, NaN or infinite; the
            first offending index and value are named.
    """
    if not dtypes.is_float(weight.dtype) or not is_broadcastable(weight.shape, target):
        raise InvalidField(
            field, f"a float dtype, broadcastable to {list(target)}", Spec.of(weight)
        )
    finite = np.isfinite(weight)
    if not finite.all():
        raise InvalidField(field, "finite values", _first(weight, ~finite))


def check_ids(ids: Array, classes: int, ignore_index: int | None) -> None:
    """Refuses class ids outside [0, classes), `ignore_index` excepted.

    Raises:
        InvalidField: names the first offending index, in row-major order, and its value.
    """
    bad = out_of_range(ids, classes, ignore_index)
    if bad is None:
        return
    exception = "" if ignore_index is None else f", or ignore_index {ignore_index}"
    raise InvalidField("labels", f"class ids in [0, {classes}){exception}", _first(ids, bad))


def out_of_range(ids: Array, classes: int, ignore_index: int | None) -> Array | None:
    """A mask of the ids outside [0, classes) other than `ignore_index`; None for no such ids."""
    if ids.size == 0 or (ids.min() >= 0 and ids.max() < classes):
        return None
    bad: Array = (ids < 0) | (ids >= classes)
    if ignore_index is not None:
        bad &= ids != ignore_index
    return bad if bad.any() else None


def _first(array: Array, offending: Array) -> str:
    """Words for the first element of `array` that `offending` marks."""
    index = np.unravel_index(int(np.argmax(offending)), offending.shape)
    position = ", ".join(str(int(i)) for i in index)
    return f"{array[index]} at index ({position})"
