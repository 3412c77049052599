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
    for required in ("options", "logits", "labels"):
        if not message.HasField(required):
            raise InvalidField(required, "to be set", "nothing")
    for weight in ("class_weight", "pos_weight"):
        if message.HasField(weight):
            raise wire.NotSupported(f"{weight}: this server does not have this option yet")
    _refuse_destinations(message)
    call = wire.decode_call(message.options)
    logits = tensors.decode("logits", message.logits)
    labels = tensors.decode("labels", message.labels)
    axis = rules.class_axis(Spec.of(logits), call.axis)
    reading = rules.check_labels(call, logits=Spec.of(logits), axis=axis, labels=labels)
    return LossRequest(
        call=call,
        logits=logits,
        axis=axis,
        ids=labels if reading == "ids" else None,
        distribution=labels if reading == "distribution" else None,
        sample_weight=_sample_weight(message, rules.example_shape(Spec.of(logits), axis)),
    )


def _sample_weight(message: pb.ComputeRequest, examples: tuple[int, ...]) -> Array | None:
    if not message.HasField("sample_weight"):
        return None
    weight = tensors.decode("sample_weight", message.sample_weight)
    rules.check_weight("sample_weight", weight, examples)
    return weight


def _refuse_destinations(message: pb.ComputeRequest) -> None:
    """There are no regions yet, so a destination can only name an unknown one."""
    for descriptor, region in message.destinations.ListFields():
        raise InvalidField(
            f"destinations.{descriptor.name}", "the id of an open region", repr(region.region_id)
        )
