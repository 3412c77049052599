"""A caller's arguments, checked: where every call begins.

In: what a method was called with. Out: what is asked of the server, or `InvalidInput`, before a
byte is sent, for all that can be known here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np

from losswire._arrays import as_labels, as_logits, as_weight, names, plain
from losswire._calls import Plan, Unary
from losswire._errors import InvalidInput
from losswire._results import ServerInfo
from losswire_proto import dtypes, rules, wire
from losswire_proto.losses import LOSSES, LossCall
from losswire_proto.rules import InvalidField, Spec
from losswire_proto.v1 import loss_service_pb2 as pb

if TYPE_CHECKING:
    from losswire._advice import Advice
    from losswire_proto.dtypes import Array
    from losswire_proto.losses import Loss
    from losswire_proto.options import Reading

Gradients: TypeAlias = bool | Literal["logits", "labels"] | Sequence[Literal["logits", "labels"]]
"""True for the gradient to the logits, False for none, or the names of those wanted."""

_PLAIN: Final = frozenset({bool, int, float, str, tuple, type(None)})
"""Types of options that are equal only where they mean the same, and cannot change later."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One loss over one tensor, checked: what every path to the server starts from.

    Attributes:
        call: which loss, and how.
        options: the same as the bytes that a `ComputeRequest` begins with.
        logits: as the caller gave them, in any layout.
        axis: the class axis counted from the front.
        labels: likewise; None for losses without labels.
        reading: what the labels are.
        weights: further tensors by name.
        overwritten: the logits where their gradient takes their place, else None.
    """

    call: LossCall
    options: bytes
    logits: Array
    axis: int
    labels: Array | None
    reading: Reading
    weights: Mapping[str, Array]
    overwritten: Array | None = None

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of the per-example losses."""
        if self.call.loss.is_elementwise:
            return tuple(self.logits.shape)
        return rules.example_shape(Spec.of(self.logits), self.axis)

    @property
    def rows(self) -> int:
        """Number of examples."""
        return math.prod(self.example_shape)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        labels = 0 if self.labels is None else self.labels.nbytes
        weights = sum(weight.nbytes for weight in self.weights.values())
        return self.logits.nbytes + labels + weights

    @property
    def names(self) -> Mapping[str, str]:
        """What the caller calls the fields of a `ComputeRequest`."""
        return {"logits": self.call.loss.input_name, "labels": self.call.loss.labels_name}


def ask(
    advice: Advice,
    loss: type[Loss],
    options: Mapping[str, Any],
    logits: Any,
    labels: Any = None,
    weights: Mapping[str, Any] | None = None,
) -> Asked:
    """Checks what a method was called with.

    Args:
        advice: of the client that asks.
        loss: which one.
        options: its own options and the common ones, by name, with `gradients`.
        logits: what its first argument was.
        labels: what its second was; passed over for losses without labels.
        weights: further tensors by name; None for those that were not given.

    Raises:
        InvalidInput: the server would refuse it; the same text.
    """
    try:
        return _asked(advice, loss, options, logits, labels, weights or {})
    except InvalidField as error:
        raise InvalidInput.of(error) from error


def _asked(
    advice: Advice,
    loss: type[Loss],
    options: Mapping[str, Any],
    logits: Any,
    labels: Any,
    weights: Mapping[str, Any],
) -> Asked:
    known = _known(loss, options)
    call = known.call
    array = as_logits(loss.input_name, logits)
    axis = _axis(known, array.dtype, array.shape)
    given = {name: as_weight(name, each) for name, each in weights.items() if each is not None}
    target: Array | None = None
    reading: Reading = "none"
    if loss.readings != ("none",):
        target = as_labels(loss.labels_name, labels, array.ndim)
        has_class_weight = "class_weight" in given
        reading = _reading(
            known, array.dtype, array.shape, axis, target.dtype, target.shape, has_class_weight
        )
        rules.check_labels(call, reading, target, array.shape[axis])
    if given:
        rules.check_weights(call, Spec.of(array), axis, given)
    advice.consider(call, axis, array, target)
    is_overwritten = options.get("overwrite_logits", False)
    overwritten = _overwritten(call, logits, array) if is_overwritten else None
    if overwritten is not None and target is not None and _is_crossed(overwritten, target):
        target = target.copy()
    return Asked(call, known.options, array, axis, target, reading, given, overwritten)


def _overwritten(call: LossCall, given: Any, array: Array) -> Array:
    """The logits, where their gradient may take their place."""
    allowed = "False, unless logits are a writable NumPy array and their gradient is asked for"
    if given is not array or not array.flags.writeable or not call.grad_logits:
        raise InvalidField("overwrite_logits", allowed, "True")
    taken: Array = array
    return taken


def _is_crossed(overwritten: Array, labels: Array) -> bool:
    """Whether some rows of the gradient lie over other rows of the labels, not sent by then."""
    one, other = (each.__array_interface__ for each in (overwritten, labels))
    is_same = all(one[key] == other[key] for key in ("data", "shape", "strides", "typestr"))
    return not is_same and np.may_share_memory(overwritten, labels)


def server_info() -> Plan[ServerInfo]:
    """Asks the server what it is."""
    reply = yield Unary("GetServerInfo", pb.GetServerInfoRequest().SerializeToString())
    return read_info(pb.GetServerInfoResponse.FromString(reply))


@dataclass(frozen=True, slots=True, eq=False)
class _Known:
    """A call that was checked; equal to itself alone, so that it is quickly found again."""

    call: LossCall
    options: bytes


def _known(loss: type[Loss], options: Mapping[str, Any]) -> _Known:
    """The call, found again where the same was asked for before."""
    values = tuple(options.values())
    if _PLAIN.issuperset(map(type, values)):
        return _known_again(loss.name, tuple(options), *values)
    return _checked(loss.name, tuple(options), *values)


def _checked(loss: str, names: tuple[str, ...], *values: Any) -> _Known:
    options = dict(zip(names, values, strict=True))
    options.pop("overwrite_logits", None)
    call = _call(LOSSES[loss], options)
    request = pb.ComputeRequest(options=wire.encode_call(call))
    return _Known(call, request.SerializeToString())


# By type, since 1, 1.0 and True are equal and not all of them are allowed everywhere.
_known_again = lru_cache(256, typed=True)(_checked)


@lru_cache(1024)
def _axis(known: _Known, dtype: np.dtype[Any], shape: tuple[int, ...]) -> int:
    """The class axis of such logits, counted from the front."""
    return rules.class_axis(Spec(dtype, shape), known.call.axis, known.call.loss.input_name)


@lru_cache(1024)
def _reading(
    known: _Known,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    axis: int,
    label_dtype: np.dtype[Any],
    label_shape: tuple[int, ...],
    has_class_weight: bool,
) -> Reading:
    """How such labels are to be read."""
    return rules.reading_of(
        known.call,
        logits=Spec(dtype, shape),
        axis=axis,
        labels=Spec(label_dtype, label_shape),
        has_class_weight=has_class_weight,
    )


def _call(loss: type[Loss], options: Mapping[str, Any]) -> LossCall:
    own = {each.name for each in fields(loss)}
    values = {name: plain(value) for name, value in options.items() if name != "gradients"}
    if "extras" in values:
        values["extras"] = names(values["extras"])
    shared: dict[str, Any] = _wanted(plain(options["gradients"]))
    shared |= {name: value for name, value in values.items() if name not in own}
    return LossCall(loss(**{name: values[name] for name in values if name in own}), **shared)


def _wanted(gradients: Any) -> dict[str, bool]:
    """Which gradients are asked for, as the fields of a `LossCall`."""
    wanted = names(gradients)
    if isinstance(gradients, bool):
        wanted = ("logits",) if gradients else ()
    if not isinstance(wanted, tuple) or not set(wanted) <= {"logits", "labels"}:
        allowed = "True, False, or some of 'logits' and 'labels'"
        raise InvalidField("gradients", allowed, repr(gradients))
    return {"grad_logits": "logits" in wanted, "grad_labels": "labels" in wanted}


def read_info(message: pb.GetServerInfoResponse) -> ServerInfo:
    """What a server says of itself."""
    known = (dtypes.dtype_of(number) for number in message.dtypes)
    limits = message.limits.DESCRIPTOR.fields
    return ServerInfo(
        version=message.version,
        backend=message.backend,
        device=message.device,
        dtypes=tuple(dtype.name for dtype in known if dtype is not None),
        losses=tuple(message.losses),
        limits={each.name: getattr(message.limits, each.name) for each in limits},
    )
