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
from losswire_server import placing
from losswire_server.errors import InvalidRequest, NotAllowed, Unsupported
from losswire_server.requests import LossRequest
from losswire_server.streams import StreamStart

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

    from losswire_proto.codec import MessageT, Views
    from losswire_proto.dtypes import Array
    from losswire_proto.losses import LossCall
    from losswire_proto.options import Reading
    from losswire_proto.tensors import Region
    from losswire_proto.v1 import tensor_pb2
    from losswire_server.regions import Regions
    from losswire_server.streams import Stream

_BLOCK: Final = pb.ComputeStreamRequest.DESCRIPTOR.fields_by_name["block"].number


def parse_compute(payload: bytes, regions: Regions) -> LossRequest:
    """The request in the bytes of a `ComputeRequest`.

    Raises:
        InvalidRequest: not such a message, or one that breaks a rule.
        Unsupported: a loss or option that this version does not have.
        UnknownRegion: a tensor or result in a region that is not open.
    """
    message, views = _parse(pb.ComputeRequest, payload)
    with _refusals():
        return _request(message, views, regions)


def parse_start(payload: bytes) -> StreamStart:
    """What the first message of a ComputeStream call says.

    Raises:
        InvalidRequest: not such a message, or one that breaks a rule.
        Unsupported: a loss or option that this version does not have.
    """
    message, _ = _parse(pb.ComputeStreamRequest, payload)
    if message.WhichOneof("part") != "start":
        received = "a block" if message.HasField("block") else "nothing"
        raise InvalidRequest(f"start: expected first, received {received}")
    with _refusals():
        return _start(message.start)


def parse_block(payload: bytes, stream: Stream) -> LossRequest:
    """The next rows of a stream, as a request of their own.

    Raises:
        InvalidRequest: not such a message, or not these rows.
    """
    message, views = _parse(pb.ComputeStreamRequest, payload)
    if message.WhichOneof("part") != "block":
        received = "another start" if message.HasField("start") else "nothing"
        raise InvalidRequest(f"block: expected after start, received {received}")
    block, label_row = message.block, stream.label_spec
    stream.check_rows(block.first_row, block.rows)

    def stored(name: str) -> memoryview | bytes:
        path = (_BLOCK, block.DESCRIPTOR.fields_by_name[name].number)
        data: memoryview | bytes = views.get(path, getattr(block, name))
        return data

    def elements(name: str, row: Spec) -> Array:
        spec = Spec(row.dtype, (block.rows, *row.shape))
        return tensors.elements(f"block.{name}", spec, stored(name))

    with _refusals():
        logits = elements("logits", stream.row_spec)
        if label_row is not None:
            return stream.block(logits, elements("labels", label_row))
        if stored("labels"):
            raise InvalidField("block.labels", "none without labels_spec", "some")
    return stream.block(logits, None)


def parse_region(payload: bytes, peer: str, limit: int) -> pb.OpenRegionRequest:
    """What a client announces.

    Args:
        payload: the bytes of an `OpenRegionRequest`.
        peer: the client's address, as gRPC names it.
        limit: bytes that a process may share; 0 where none may.

    Raises:
        InvalidRequest: not such a message, or no source in it.
        NotAllowed: memory is not shared, or not with this peer.
    """
    message = parse(pb.OpenRegionRequest, payload)
    source = message.WhichOneof("source")
    # What was handed over is on this host wherever its client's calls come from.
    if not limit or not (source == "shared_file" or _is_local(peer)):
        raise NotAllowed("this server shares no memory with this client")
    if source is None:
        raise InvalidRequest("source: expected process_file or shared_file, received nothing")
    return message


def _is_local(peer: str) -> bool:
    return peer.startswith(("unix:", "ipv4:127.", "ipv6:%5B::1%5D", "ipv6:[::1]"))


def parse(kind: type[MessageT], payload: bytes) -> MessageT:
    """A message without large fields.

    Raises:
        InvalidRequest: the bytes are not such a message.
    """
    return _parse(kind, payload)[0]


def _parse(kind: type[MessageT], payload: bytes) -> tuple[MessageT, Views]:
    with decoding(kind, payload):
        return codec.parse(kind, payload, codec.LARGEST_REST)


@contextmanager
def decoding(kind: type[Message], payload: bytes) -> Iterator[None]:
    """What cannot be decoded as the caller's mistake."""
    try:
        yield
    except DecodeError as error:
        raise InvalidRequest(
            f"request: expected a {kind.DESCRIPTOR.full_name}, received {len(payload)} other bytes"
        ) from error
    except codec.TooLargeError as error:
        raise InvalidRequest(
            f"request: expected at most {codec.LARGEST_REST} bytes besides the elements of tensors,"
            f" received {error}"
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
    weights = _weights(message, {}, None)
    if not message.HasField("labels_spec"):
        labels, reading = _labels(message, {}, None, call, logits, axis, "class_weight" in weights)
        rules.check_weights(call, Spec.of(logits), axis, weights)
        return StreamStart(LossRequest(call, logits, axis, labels, reading, **weights), False)
    name = call.loss.labels_name
    if message.HasField("labels"):
        raise InvalidField(name, "one of labels and labels_spec", "both")
    if call.loss.readings == ("none",):
        raise InvalidField(name, f"none with {call.loss.name}", "some")
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


def _weights(
    message: pb.ComputeRequest | pb.ComputeStreamStart, views: Views, find: Region | None
) -> dict[str, Any]:
    weights = {}
    for name in ("sample_weight", "class_weight", "pos_weight"):
        if message.HasField(name):
            weight = tensors.decode_field(name, message, name, views, find)
            weights[name] = weight.copy() if getattr(message, name).HasField("region") else weight
    return weights


def _request(message: pb.ComputeRequest, views: Views, regions: Regions) -> LossRequest:
    for required in ("options", "logits"):
        if not message.HasField(required):
            raise InvalidField(required, "to be set", "nothing")
    call = wire.decode_call(message.options)
    find = _finder(regions)
    logits = tensors.decode_field(call.loss.input_name, message, "logits", views, find)
    axis = rules.class_axis(Spec.of(logits), call.axis, call.loss.input_name)
    weights = _weights(message, views, find)
    labels, reading = _labels(message, views, find, call, logits, axis, "class_weight" in weights)
    rules.check_weights(call, Spec.of(logits), axis, weights)
    request = LossRequest(call, logits, axis, labels, reading, **weights)
    return placing.place(message, request, regions)


def _finder(regions: Regions) -> Region:
    def find(field: str, message: tensor_pb2.RegionSlice) -> memoryview:
        return regions.find(field, message.region_id, message.offset, message.length)

    return find


def _labels(
    message: pb.ComputeRequest | pb.ComputeStreamStart,
    views: Views,
    find: Region | None,
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
    labels = tensors.decode_field(name, message, "labels", views, find)
    if message.labels.HasField("region") and labels.shape != logits.shape:
        # What is checked here is what is computed with later, whatever the client writes meanwhile:
        # ids index memory.
        labels = labels.copy()
    spec = Spec.of(logits)
    reading = rules.read_labels(
        call, logits=spec, axis=axis, labels=labels, has_class_weight=has_class_weight
    )
    return labels, reading
