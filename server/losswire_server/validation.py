"""Messages to requests: the last place that knows protobuf, and the first that says no.

In: a `ComputeRequest` somebody sent. Out: a `LossRequest` that no later stage needs to doubt, or
`InvalidRequest` naming field, expected and received. The rules themselves are `losswire_proto`'s,
so that a client that checks first says the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from losswire_proto import rules, tensors, wire
from losswire_proto.rules import InvalidField, Spec
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_server.errors import InvalidRequest, Unsupported
from losswire_server.requests import LossRequest

if TYPE_CHECKING:
    from losswire_proto.dtypes import Array
    from losswire_proto.losses import LossCall
    from losswire_proto.options import Reading


def parse_compute(payload: bytes) -> LossRequest:
    """The request in the bytes of a `ComputeRequest`.

    Raises:
        InvalidRequest: not such a message, or one that breaks a rule.
        Unsupported: a loss or option that this version does not have.
    """
    try:
        message = pb.ComputeRequest.FromString(payload)
    except DecodeError as error:
        raise InvalidRequest(
            f"request: expected a losswire.v1.ComputeRequest, received {len(payload)} other bytes"
        ) from error
    try:
        return _request(message)
    except InvalidField as error:
        raise InvalidRequest(str(error)) from error
    except wire.NotSupported as error:
        raise Unsupported(str(error)) from error


def _request(message: pb.ComputeRequest) -> LossRequest:
    for required in ("options", "logits"):
        if not message.HasField(required):
            raise InvalidField(required, "to be set", "nothing")
    _refuse_destinations(message)
    call = wire.decode_call(message.options)
    logits = tensors.decode(call.loss.input_name, message.logits)
    axis = rules.class_axis(Spec.of(logits), call.axis, call.loss.input_name)
    weights = {
        name: tensors.decode(name, getattr(message, name))
        for name in ("sample_weight", "class_weight", "pos_weight")
        if message.HasField(name)
    }
    labels, reading = _labels(message, call, logits, axis, "class_weight" in weights)
    rules.check_weights(call, Spec.of(logits), axis, weights)
    return LossRequest(call, logits, axis, labels, reading, **weights)


def _labels(
    message: pb.ComputeRequest, call: LossCall, logits: Array, axis: int, has_class_weight: bool
) -> tuple[Array | None, Reading]:
    name = call.loss.labels_name
    if call.loss.readings == ("none",):
        if message.HasField("labels"):
            raise InvalidField(name, f"none with {call.loss.name}", "some")
        return None, "none"
    if not message.HasField("labels"):
        raise InvalidField(name, "to be set", "nothing")
    labels = tensors.decode(name, message.labels)
    spec = Spec.of(logits)
    reading = rules.read_labels(
        call, logits=spec, axis=axis, labels=labels, has_class_weight=has_class_weight
    )
    return labels, reading


def _refuse_destinations(message: pb.ComputeRequest) -> None:
    """There are no regions yet, so a destination can only name an unknown one."""
    for descriptor, region in message.destinations.ListFields():
        raise InvalidField(
            f"destinations.{descriptor.name}", "the id of an open region", repr(region.region_id)
        )
