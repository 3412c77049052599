"""The paths of small tensors: one message each way, of one call or of several."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from losswire._calls import Joined, NotServed, Plan, Unary
from losswire._errors import InvalidInput
from losswire_proto import tensors
from losswire_proto.v1 import loss_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable

    from losswire._replies import ReplyReader
    from losswire._requests import Asked
    from losswire._results import Outputs

LARGEST_MESSAGE: Final = 2**31 - 1
"""Bytes; protobuf's own limit."""


def inline(asked: Asked, replies: ReplyReader) -> Plan[Outputs]:
    """Asks for one loss with all tensors in the message."""
    reply = yield Unary("Compute", request_bytes(asked))
    return replies.read(reply, asked)


def joined(asked: Asked, replies: ReplyReader, give_up: Callable[[], None]) -> Plan[Outputs]:
    """Asks for the same in a message that other calls share.

    A server from before there was ComputeMany is asked alone; `give_up` is told of it.
    """
    payload = request_bytes(asked)
    try:
        reply = yield Joined(payload)
    except NotServed:
        give_up()
        reply = yield Unary("Compute", payload)
    return replies.read(reply, asked)


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
    return tensors.write(pb.ComputeRequest, asked.options, arrays, asked.names)
