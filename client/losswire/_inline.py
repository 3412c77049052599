"""The path of small tensors: one message each way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from losswire._calls import Plan, Unary
from losswire._errors import InvalidInput
from losswire_proto import codec, tensors, wire
from losswire_proto.v1 import loss_service_pb2 as pb

if TYPE_CHECKING:
    from losswire._requests import Asked
    from losswire._results import Outputs

LARGEST_MESSAGE: Final = 2**31 - 1
"""Bytes; protobuf's own limit."""


def inline(asked: Asked) -> Plan[Outputs]:
    """Asks for one loss with all tensors in the message."""
    reply = yield Unary("Compute", request_bytes(asked))
    return read_outputs(reply, asked)


def request_bytes(asked: Asked) -> bytes:
    """The `ComputeRequest` with everything in it.

    Raises:
        InvalidInput: more than a message can hold.
    """
    arrays = dict(asked.weights)
    if asked.labels is not None:
        arrays["labels"] = asked.labels
    arrays["logits"] = asked.logits
    nbytes = sum(array.nbytes for array in arrays.values())
    if nbytes > LARGEST_MESSAGE:
        raise InvalidInput(
            f"request: expected at most {LARGEST_MESSAGE} bytes in one message,"
            f" received {nbytes} bytes of tensors; use another transport"
        )
    message = pb.ComputeRequest(options=wire.encode_call(asked.call))
    return tensors.write(message, arrays, asked.names)


def read_outputs(payload: bytes, asked: Asked) -> Outputs:
    """What a `ComputeResponse` holds, as arrays of the caller's own."""
    message, views = codec.parse(pb.ComputeResponse, payload)
    outputs: Outputs = {}
    for descriptor, _ in message.ListFields():
        name = descriptor.name
        array = tensors.decode_field(f"reply.{name}", message, name, views)
        if name == "grad_logits" and asked.overwritten is not None:
            np.copyto(asked.overwritten, array)
            outputs[name] = asked.overwritten
        else:
            outputs[name] = array.copy()
    return outputs
