"""Messages to requests: the last place that knows protobuf, and the first that says no.

In: a `ComputeRequest` somebody sent. Out: a `LossRequest` that no later stage needs to doubt, or
`InvalidRequest` naming field, expected and received. The rules themselves are `losswire_proto`'s,
so that a client that checks first says the same.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from google.protobuf.message import DecodeError

from losswire_proto import codec, dtypes, rules, tensors, wire
from losswire_proto.rules import InvalidField, Spec
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_server.errors import InvalidRequest, Unsupported
from losswire_server.requests import LossRequest
from losswire_server.streams import StreamStart

if TYPE_CHECKING:
    from collections.abc import Iterator

    from losswire_proto.codec import MessageT, Views
    from losswire_proto.dtypes import Array
    from losswire_proto.losses import LossCall
    from losswire_proto.options import Reading
    from losswire_server.streams import Stream

_BLOCK: Final = pb.ComputeStreamRequest.DESCRIPTOR.fields_by_name["block"].number


def parse_compute(payload: bytes) -> LossRequest:
    """The request in the bytes of a `ComputeRequest`.

    Raises:
        InvalidRequest: not such a message, or one that breaks a rule.
        Unsupported: a loss or option that this version does not have.
    """
    message, views = _parse(pb.ComputeRequest, payload)
    with _refusals():
        return _request(message, views)


def parse_start(payload: bytes) -> StreamStart:
    """What the first message of a ComputeStream call says.

    Raises:
        InvalidRequest: not such a message, or one that breaks a rule.
        Unsupported: a loss or option that this version does not have.
    """
    message, _ = _parse(pb.ComputeStreamRequest, payload)
    if message.WhichOneof("part") != "start":
        raise InvalidRequest("start: expected first, received a block")
    with _refusals():
        return _start(message.start)


def parse_block(payload: bytes, stream: Stream) -> LossRequest:
    """The next rows of a stream, as a request of their own.

    Raises:
        InvalidRequest: not such a message, or not these rows.
    """
    message, views = _parse(pb.ComputeStreamRequest, payload)
    if message.WhichOneof("part") != "block":
        raise InvalidRequest("block: expected after start, received another start")
    block, label_row = message.block, stream.label_spec
    stream.check_rows(block.first_row, block.rows)

    def elements(name: str, row: Spec) -> Array:
        path = (_BLOCK, block.DESCRIPTOR.fields_by_name[name].number)
        spec = Spec(row.dtype, (block.rows, *row.shape))
        return tensors.elements(f"block.{name}", spec, views.get(path, getattr(block, name)))

    with _refusals():
        logits = elements("logits", stream.row_spec)
        if label_row is not None:
            return stream.block(logits, elements("labels", label_row))
        if block.labels or len(views) > 1:
            raise InvalidField("block.labels", "none without labels_spec", "some")
    return stream.block(logits, None)


def _parse(kind: type[MessageT], payload: bytes) -> tuple[MessageT, Views]:
    try:
        return codec.parse(kind, payload)
    except DecodeError as error:
        raise InvalidRequest(
            f"request: expected a {kind.DESCRIPTOR.full_name}, received {len(payload)} other bytes"
        ) from error


@contextmanager
def _refusals() -> Iterator[None]:
    """Errors of the rules as the server's own."""
    try:
        yield
    except InvalidField as error:
        raise InvalidRequest(str(error)) from error
    except wire.NotSupported as error:
        raise Unsupported(str(error)) from error


def _start(message: pb.ComputeStreamStart) -> StreamStart:
    for required in ("options", "logits_spec"):
        if not message.HasField(required):
            raise InvalidField(required, "to be set", "nothing")
    call = wire.decode_call(message.options)
    logits = _imagined(tensors.read_spec(call.loss.input_name, message.logits_spec))
    axis = rules.class_axis(Spec.of(logits), call.axis, call.loss.input_name)
    weights = _weights(message, {})
    if not message.HasField("labels_spec"):
        labels, reading = _labels(message, {}, call, logits, axis, "class_weight" in weights)
        rules.check_weights(call, Spec.of(logits), axis, weights)
        return StreamStart(LossRequest(call, logits, axis, labels, reading, **weights), False)
    name = call.loss.labels_name
    if message.HasField("labels"):
        raise InvalidField(name, "one of labels and labels_spec", "both")
    imagined = _imagined(tensors.read_spec(name, message.labels_spec))
    if not dtypes.is_float(imagined.dtype) or imagined.shape != logits.shape:
        allowed = f"a float dtype, shape {list(logits.shape)}"
        raise InvalidField("labels_spec", allowed, Spec.of(imagined))
    reading = rules.read_labels(
        call,
        logits=Spec.of(logits),
        axis=axis,
        labels=imagined,
        has_class_weight="class_weight" in weights,
    )
    rules.check_weights(call, Spec.of(logits), axis, weights)
    return StreamStart(LossRequest(call, logits, axis, imagined, reading, **weights), True)


def _imagined(spec: Spec) -> Array:
    """An array that is no more than its shape and dtype: elements of no memory."""
    return np.broadcast_to(np.zeros((), spec.dtype), spec.shape)


def _weights(message: pb.ComputeRequest | pb.ComputeStreamStart, views: Views) -> dict[str, Any]:
    return {
        name: tensors.decode_field(name, message, name, views)
        for name in ("sample_weight", "class_weight", "pos_weight")
        if message.HasField(name)
    }


def _request(message: pb.ComputeRequest, views: Views) -> LossRequest:
    for required in ("options", "logits"):
        if not message.HasField(required):
            raise InvalidField(required, "to be set", "nothing")
    _refuse_destinations(message)
    call = wire.decode_call(message.options)
    logits = tensors.decode_field(call.loss.input_name, message, "logits", views)
    axis = rules.class_axis(Spec.of(logits), call.axis, call.loss.input_name)
    weights = _weights(message, views)
    labels, reading = _labels(message, views, call, logits, axis, "class_weight" in weights)
    rules.check_weights(call, Spec.of(logits), axis, weights)
    return LossRequest(call, logits, axis, labels, reading, **weights)


def _labels(
    message: pb.ComputeRequest | pb.ComputeStreamStart,
    views: Views,
    call: LossCall,
    logits: Array,
    axis: int,
    has_class_weight: bool,
) -> tuple[Array | None, Reading]:
    name = call.loss.labels_name
    if call.loss.readings == ("none",):
        if message.HasField("labels"):
            raise InvalidField(name, f"none with {call.loss.name}", "some")
        return None, "none"
    if not message.HasField("labels"):
        raise InvalidField(name, "to be set", "nothing")
    labels = tensors.decode_field(name, message, "labels", views)
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
