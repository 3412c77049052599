"""A caller's arguments to a message, and a reply to results: all that both clients share.

In: anything with `__array__`, or lists. Out: the bytes to send and what to make of the answer; or
`InvalidInput`, before a byte is sent, for all that can be known here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeAlias, TypeVar

import numpy as np

from losswire._errors import InvalidInput
from losswire._results import LossResult, ServerInfo
from losswire_proto import dtypes, rules, tensors, wire
from losswire_proto.rules import InvalidField, Spec
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_proto.v1 import tensor_pb2

if TYPE_CHECKING:
    from losswire_proto.dtypes import Array
    from losswire_proto.losses import LossCall

Gradients: TypeAlias = bool | Literal["logits", "labels"] | Sequence[Literal["logits", "labels"]]
"""True for the gradient to the logits, False for none, or the names of those wanted."""

ResultT = TypeVar("ResultT")

SERVICE: Final = "losswire.v1.LossService"


@dataclass(frozen=True, slots=True)
class Rpc(Generic[ResultT]):
    """One unary call: where it goes, what is sent, and how the answer is read."""

    path: str
    payload: bytes
    read: Callable[[bytes], ResultT]


def server_info() -> Rpc[ServerInfo]:
    """Asks the server what it is."""
    payload = pb.GetServerInfoRequest().SerializeToString()
    return Rpc(f"/{SERVICE}/GetServerInfo", payload, _read_info)


def compute(
    call_of: Callable[[], LossCall], logits: Any, labels: Any, sample_weight: Any
) -> Rpc[LossResult]:
    """Asks for one loss.

    Raises:
        InvalidInput: the server would refuse it; the same text.
    """
    try:
        call = call_of()
        logits, labels = as_logits(logits), as_labels(labels, np.ndim(logits))
        axis = rules.class_axis(Spec.of(logits), call.axis)
        rules.check_labels(call, logits=Spec.of(logits), axis=axis, labels=labels)
        message = pb.ComputeRequest(options=wire.encode_call(call))
        if sample_weight is not None:
            weight = as_weight(sample_weight)
            examples = rules.example_shape(Spec.of(logits), axis)
            rules.check_weight("sample_weight", weight, examples)
            message.sample_weight.CopyFrom(tensors.encode("sample_weight", weight))
        message.labels.CopyFrom(tensors.encode("labels", labels))
        message.logits.CopyFrom(tensors.encode("logits", logits))
    except InvalidField as error:
        raise InvalidInput.of(error) from error
    return Rpc(f"/{SERVICE}/Compute", message.SerializeToString(), _read_loss)


def wanted_gradients(gradients: Gradients) -> dict[str, bool]:
    """Which gradients are asked for, as the fields of a `LossCall`.

    Raises:
        InvalidField: a name that is not one of a gradient.
    """
    names: Sequence[object]
    if isinstance(gradients, bool):
        names = ("logits",) if gradients else ()
    else:
        names = (gradients,) if isinstance(gradients, str) else tuple(gradients)
    if not set(names) <= {"logits", "labels"}:
        raise InvalidField(
            "gradients", "True, False, or some of 'logits' and 'labels'", repr(gradients)
        )
    return {"grad_logits": "logits" in names, "grad_labels": "labels" in names}


def as_logits(value: Any) -> Array:
    """Logits as an array. Numbers in lists are float64, integers among them too."""
    array = _array("logits", value)
    if _is_list(value) and dtypes.is_id(array.dtype):
        return array.astype(np.float64)
    return array


def as_labels(value: Any, rank: int) -> Array:
    """Labels as an array. Integers in lists of the logits' rank can only be distributions."""
    array = _array("labels", value)
    if _is_list(value) and dtypes.is_id(array.dtype) and array.ndim == rank:
        return array.astype(np.float64)
    return _wire_float(array)


def as_weight(value: Any) -> Array:
    """Weights as an array of floats; integers and booleans are counts and masks."""
    array = _array("sample_weight", value)
    if array.dtype.kind in "iub":
        return array.astype(np.float64)
    return _wire_float(array)


def _is_list(value: Any) -> bool:
    """Whether the numbers have no dtype of their own."""
    return isinstance(value, (list, tuple, int, float))


def _wire_float(array: Array) -> Array:
    """Floats that the wire does not carry, such as long double or float8, as one that it does."""
    is_other_float = array.dtype.kind in "fV" and not dtypes.is_float(_native(array))
    if is_other_float and np.can_cast(array.dtype, np.longdouble):
        wide = array.dtype.itemsize > np.dtype(np.float64).itemsize
        return array.astype(np.float64 if wide else np.float32)
    return array


def _array(field: str, value: Any) -> Array:
    """Anything with `__array__`, or lists, as an array in native byte order."""
    try:
        array = np.asarray(value)
    except Exception as error:
        # Lists of unequal length, tensors on another device: each library has its own error.
        raise InvalidField(field, "an array", f"{type(value).__name__} ({error})") from error
    return array.astype(_native(array), copy=False)


def _native(array: Array) -> np.dtype[Any]:
    dtype: np.dtype[Any] = array.dtype
    return dtype if dtype.isnative else dtype.newbyteorder("=")


def _read_loss(payload: bytes) -> LossResult:
    message = pb.ComputeResponse.FromString(payload)
    per_example = _own(message.per_example)
    return LossResult(
        loss=_own(message.loss) if message.HasField("loss") else per_example,
        per_example=per_example,
        grad_logits=_own(message.grad_logits) if message.HasField("grad_logits") else None,
        grad_labels=_own(message.grad_labels) if message.HasField("grad_labels") else None,
    )


def _own(message: tensor_pb2.Tensor) -> Array:
    """A tensor of the reply as an array of the caller's own."""
    return tensors.decode("reply", message).copy()


def _read_info(payload: bytes) -> ServerInfo:
    message = pb.GetServerInfoResponse.FromString(payload)
    known = (dtypes.dtype_of(number) for number in message.dtypes)
    return ServerInfo(
        version=message.version,
        backend=message.backend,
        device=message.device,
        dtypes=tuple(dtype.name for dtype in known if dtype is not None),
        losses=tuple(message.losses),
        limits={
            each.name: getattr(message.limits, each.name)
            for each in message.limits.DESCRIPTOR.fields
        },
    )
