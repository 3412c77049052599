"""A caller's arguments to a message, and a reply to results: all that both clients share.

In: what a method was called with. Out: the bytes to send and what to make of the answer; or
`InvalidInput`, before a byte is sent, for all that can be known here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeAlias, TypeVar

from losswire._advice import Advice
from losswire._arrays import as_labels, as_logits, as_weight, names, plain
from losswire._errors import InvalidInput
from losswire._results import LossResult, ServerInfo
from losswire_proto import dtypes, rules, tensors, wire
from losswire_proto.losses import LossCall
from losswire_proto.rules import InvalidField, Spec
from losswire_proto.v1 import loss_service_pb2 as pb

if TYPE_CHECKING:
    from losswire_proto.dtypes import Array
    from losswire_proto.losses import Loss
    from losswire_proto.v1 import tensor_pb2

Gradients: TypeAlias = bool | Literal["logits", "labels"] | Sequence[Literal["logits", "labels"]]
"""True for the gradient to the logits, False for none, or the names of those wanted."""

ResultT = TypeVar("ResultT")

SERVICE: Final = "losswire.v1.LossService"

_EXTRAS: Final = ("logsumexp", "argmax", "entropy")


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
    advice: Advice,
    loss: type[Loss],
    options: Mapping[str, Any],
    logits: Any,
    labels: Any = None,
    weights: Mapping[str, Any] | None = None,
) -> Rpc[LossResult]:
    """Asks for one loss.

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
        message = _message(advice, _call(loss, options), logits, labels, weights or {})
    except InvalidField as error:
        raise InvalidInput.of(error) from error
    return Rpc(f"/{SERVICE}/Compute", message.SerializeToString(), _read_loss)


def transform(loss: type[Loss], axis: Any, logits: Any) -> Rpc[Array]:
    """Asks for softmax or log-softmax."""
    asked = compute(Advice(), loss, {"axis": axis, "gradients": False}, logits)
    return Rpc(asked.path, asked.payload, _read_output)


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


def _message(
    advice: Advice, call: LossCall, logits: Any, labels: Any, weights: Mapping[str, Any]
) -> pb.ComputeRequest:
    loss = call.loss
    array = as_logits(loss.input_name, logits)
    spec = Spec.of(array)
    axis = rules.class_axis(spec, call.axis, loss.input_name)
    message = pb.ComputeRequest(options=wire.encode_call(call))
    given = {name: as_weight(name, each) for name, each in weights.items() if each is not None}
    target: Array | None = None
    if loss.readings != ("none",):
        target = as_labels(loss.labels_name, labels, array.ndim)
        rules.read_labels(
            call, logits=spec, axis=axis, labels=target, has_class_weight="class_weight" in given
        )
        message.labels.CopyFrom(tensors.encode(loss.labels_name, target))
    rules.check_weights(call, spec, axis, given)
    advice.consider(call, axis, array, target)
    for name, weight in given.items():
        getattr(message, name).CopyFrom(tensors.encode(name, weight))
    message.logits.CopyFrom(tensors.encode(loss.input_name, array))
    return message


def _read_loss(payload: bytes) -> LossResult:
    message = pb.ComputeResponse.FromString(payload)
    per_example = _own(message.per_example)
    return LossResult(
        loss=_own(message.loss) if message.HasField("loss") else per_example,
        per_example=per_example,
        grad_logits=_own(message.grad_logits) if message.HasField("grad_logits") else None,
        grad_labels=_own(message.grad_labels) if message.HasField("grad_labels") else None,
        extras={name: _own(getattr(message, name)) for name in _EXTRAS if message.HasField(name)},
    )


def _read_output(payload: bytes) -> Array:
    return _own(pb.ComputeResponse.FromString(payload).output)


def _own(message: tensor_pb2.Tensor) -> Array:
    """A tensor of the reply as an array of the caller's own."""
    return tensors.decode("reply", message).copy()


def _read_info(payload: bytes) -> ServerInfo:
    message = pb.GetServerInfoResponse.FromString(payload)
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
