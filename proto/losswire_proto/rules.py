"""The rules a request obeys, in the words both sides use.

In: shapes, dtypes and values, whether they come from a caller's arrays or from a message. Out:
nothing, or what follows from them (an axis, a reading of the labels). What breaks a rule raises
`InvalidField`, which the client turns into `losswire.InvalidInput` before a byte is sent and the
server into INVALID_ARGUMENT: the same text either way.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from losswire_proto import dtypes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from losswire_proto.dtypes import Array
    from losswire_proto.losses import LossCall
    from losswire_proto.options import Reading

MAX_RANK: Final = 32
"""Dimensions of a tensor; beyond any model, within what NumPy 2 and CUDA indexing carry."""


MAX_ELEMENTS: Final = 2**58
"""Of a tensor, zero dimensions left out: so that 16 bytes for each are below 2^63."""

_LONGEST_WORDS: Final = 200
"""Of what was received, in an error: a status message travels in a header of limited size."""

_FEW: Final = 64
"""Numbers for which two of NumPy's reductions cost more than a list: 4 µs against 0.4 for 8."""


class InvalidField(ValueError):  # noqa: N818 -- it names a field; each side wraps it in its own error
    """A field of a request broke a rule.

    Attributes:
        field: name of the argument or message field, such as `"labels"`.
        expected: what the rule allows.
        received: what came instead.
    """

    def __init__(self, field: str, expected: str, received: object) -> None:
        words = str(received)
        if len(words) > _LONGEST_WORDS:
            words = words[:_LONGEST_WORDS] + "…"
        super().__init__(f"{field}: expected {expected}, received {words}")
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

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return self.size * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{self.dtype.name} {list(self.shape)}"


def check_shape(field: str, shape: Sequence[int]) -> None:
    """Refuses dimensions that are negative, too many, or whose bytes overflow 63 bits."""
    if len(shape) > MAX_RANK:
        raise InvalidField(f"{field}.shape", f"at most {MAX_RANK} dimensions", len(shape))
    if any(length < 0 for length in shape):
        raise InvalidField(f"{field}.shape", "dimensions >= 0", list(shape))
    # A zero elsewhere must not hide dimensions that no machine could hold.
    if math.prod(length for length in shape if length) >= MAX_ELEMENTS:
        raise InvalidField(f"{field}.shape", "product(shape) below 2^58", list(shape))


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


def read_labels(
    call: LossCall, *, logits: Spec, axis: int, labels: Array, has_class_weight: bool = False
) -> Reading:
    """Checks labels against logits and options; returns how they are to be read.

    Raises:
        InvalidField: no reading fits, ids out of range, or options that these labels exclude.
    """
    spec = Spec.of(labels)
    reading = reading_of(
        call, logits=logits, axis=axis, labels=spec, has_class_weight=has_class_weight
    )
    check_labels(call, reading, labels, logits.shape[axis])
    return reading


def check_labels(call: LossCall, reading: Reading, labels: Array, classes: int) -> None:
    """Refuses class ids out of range, where the loss does not say what becomes of them.

    Raises:
        InvalidField: names the first offending index, in row-major order, and its value.
    """
    if reading == "ids" and call.loss.bad_ids == "error":
        check_ids(labels, classes, call.loss.ignored_id, call.loss.labels_name)


def reading_of(
    call: LossCall, *, logits: Spec, axis: int, labels: Spec, has_class_weight: bool = False
) -> Reading:
    """How labels that look so are to be read, whatever their values.

    Raises:
        InvalidField: no reading fits, or options that these labels exclude.
    """
    loss = call.loss
    if loss.needs_sequences and len(logits.shape) != 3:
        raise InvalidField("logits.shape", "[batch, time, classes]", list(logits.shape))
    if loss.needs_sequences and axis != 2:
        raise InvalidField("axis", f"the last one with {loss.name}", call.axis)
    field, examples = loss.labels_name, example_shape(logits, axis)
    for reading in loss.allowed_readings:
        if _fits(reading, labels, logits.shape, examples):
            break
    else:
        words = {
            "ids": f"class ids (an integer dtype, shape {list(examples)}: logits' shape without"
            f" axis {axis})",
            "distribution": f"distributions (a float dtype, broadcastable to {list(logits.shape)})",
            "elements": f"one number per element (a float dtype, shape {list(logits.shape)})",
        }
        allowed = " or ".join(words[reading] for reading in loss.allowed_readings)
        raise InvalidField(field, allowed, labels)
    if reading != "ids" and loss.ignored_id is not None:
        raise InvalidField("ignore_index", "None where labels are no ids", loss.ignored_id)
    if call.grad_labels and (reading != "distribution" or not loss.has_label_gradient):
        raise InvalidField(
            "gradients", "'labels' only with float labels of softmax_cross_entropy", reading
        )
    if has_class_weight and getattr(loss, "label_gradient", "exact") == "tf":
        raise InvalidField(
            "label_gradient", "'exact' with class_weight: TensorFlow's p - q has none", "'tf'"
        )
    return reading


def _fits(
    reading: Reading, labels: Spec, logits: tuple[int, ...], examples: tuple[int, ...]
) -> bool:
    match reading:
        case "ids":
            return dtypes.is_id(labels.dtype) and labels.shape == examples
        case "distribution":
            return dtypes.is_float(labels.dtype) and is_broadcastable(labels.shape, logits)
        case "elements":
            return dtypes.is_float(labels.dtype) and labels.shape == logits
        case _:
            return False


def is_broadcastable(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether an array of `shape` broadcasts to exactly `target`, by NumPy's rules."""
    if len(shape) > len(target):
        return False
    pairs = zip(reversed(shape), reversed(target), strict=False)
    return all(length in (1, wanted) for length, wanted in pairs)


def check_weights(call: LossCall, logits: Spec, axis: int, weights: Mapping[str, Array]) -> None:
    """Refuses weights that the loss does not take, that do not fit, or that are not finite.

    Args:
        call: the loss.
        logits: what the weights have to fit.
        axis: the class axis, counted from the front.
        weights: those that were given, by name.

    Raises:
        InvalidField: names the weight; for values, the first offending index and value.
    """
    loss = call.loss
    examples = logits.shape if loss.is_elementwise else example_shape(logits, axis)
    for name, weight in weights.items():
        if name not in loss.weights:
            raise InvalidField(name, f"None with {loss.name}", Spec.of(weight))
        classes = (logits.shape[axis],)
        target = {"class_weight": classes, "pos_weight": logits.shape}.get(name, examples)
        fits = weight.shape == classes if name == "class_weight" else True
        if not dtypes.is_float(weight.dtype) or not fits:
            raise InvalidField(name, f"a float dtype, shape {list(target)}", Spec.of(weight))
        if not is_broadcastable(weight.shape, target):
            raise InvalidField(
                name, f"a float dtype, broadcastable to {list(target)}", Spec.of(weight)
            )
        with np.errstate(invalid="ignore"):  # NaN in half precision, which is bad in any case
            is_bad = ~np.isfinite(weight)
            if name != "sample_weight":
                is_bad |= weight < 0
        if is_bad.any():
            allowed = "finite values" if name == "sample_weight" else "finite values >= 0"
            raise InvalidField(name, allowed, _first(weight, is_bad))


def check_ids(ids: Array, classes: int, ignore_index: int | None, field: str = "labels") -> None:
    """Refuses class ids outside [0, classes), `ignore_index` excepted.

    Raises:
        InvalidField: names the first offending index, in row-major order, and its value.
    """
    bad = out_of_range(ids, classes, ignore_index)
    if bad is None:
        return
    exception = "" if ignore_index is None else f", or ignore_index {ignore_index}"
    raise InvalidField(field, f"class ids in [0, {classes}){exception}", _first(ids, bad))


def out_of_range(ids: Array, classes: int, ignore_index: int | None) -> Array | None:
    """A mask of the ids outside [0, classes) other than `ignore_index`; None for no such ids."""
    if ids.size == 0 or _are_within(ids, classes):
        return None
    bad: Array = (ids < 0) | (ids >= classes)
    if ignore_index is not None:
        bad &= ids != ignore_index
    return bad if bad.any() else None


def _are_within(ids: Array, classes: int) -> bool:
    """Whether ids, at least one, lie in [0, classes); few are looked at faster as a list."""
    if ids.size <= _FEW:
        few = ids.reshape(-1).tolist()
        return bool(min(few) >= 0 and max(few) < classes)
    return bool(ids.min() >= 0 and ids.max() < classes)


def _first(array: Array, offending: Array) -> str:
    """Words for the first element of `array` that `offending` marks."""
    index = np.unravel_index(int(np.argmax(offending)), offending.shape)
    position = ", ".join(str(int(i)) for i in index)
    return f"{array[index]} at index ({position})"
