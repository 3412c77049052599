"""The client's decoder of replies: bytes of a server to arrays, or one of two errors.

A script's messages are replies to one call, read one after the other by a reader that remembers the
kinds it has met. Each is read as the reply to a call that keeps its logits, and to one that gives
them away.
"""

import numpy as np
from google.protobuf.message import DecodeError

from fuzz import answers, truth
from fuzz.answers import Refused
from fuzz.house import cut_small
from fuzz.scripts import Kind
from losswire._replies import ReplyReader
from losswire._requests import Asked
from losswire_proto import dtypes, rules
from losswire_proto.losses import LossCall
from losswire_proto.rules import InvalidField
from losswire_proto.v1 import loss_service_pb2 as pb

KINDS = (Kind.SEND,)
MESSAGES = {Kind.SEND: pb.ComputeResponse}


async def play(script, engine):
    """Reads the replies of a script."""
    with cut_small(script.condition):
        reader = ReplyReader()
        for step in script.steps:
            if step.kind is Kind.SEND:
                expected = _expected(step.content)
                kept = _read(reader, step.content, _asked(None))
                assert (kept is None) == (expected is None), f"{kept} for {expected}"
                if expected is not None:
                    answers.check_same(kept, expected)
                _check_overwritten(reader, step.content, expected)


def _asked(overwritten):
    logits = np.zeros((4, 3), np.float32)
    call = LossCall(grad_logits=True)
    return Asked(call, b"", logits, 1, np.zeros(4, np.int64), "ids", {}, overwritten)


def _read(reader, payload, asked):
    """What a reply holds; None where it is refused as it should be."""
    try:
        return reader.read(payload, asked)
    except (DecodeError, InvalidField):
        return None


def _check_overwritten(reader, payload, expected):
    """Logits that were given away hold their gradient, or what they held; never half of either."""
    own = np.full((4, 3), 7, np.float32)
    got = _read(reader, payload, _asked(own))
    gradient = None if expected is None else expected.get("grad_logits")
    fits = gradient is None or (gradient.dtype, gradient.shape) == (own.dtype, own.shape)
    assert (got is None) == (expected is None or not fits), f"{got} for {expected}"
    if got is None or gradient is None:
        assert (own == 7).all(), "logits are lost, and there is no gradient"
    else:
        assert got["grad_logits"] is own
        assert own.tobytes() == gradient.tobytes(), "another gradient"


def _expected(payload):
    """The arrays of a reply that keeps the contract, by the names of their fields."""
    try:
        message = answers.parsed(pb.ComputeResponse, payload)
        for _, tensor in message.ListFields():
            rules.check_shape("", tensor.shape)
            if tensor.HasField("region") or not tensor.HasField("data"):
                return None
            if dtypes.dtype_of(tensor.dtype) is None:
                return None
        return {each.name: truth.array_of(tensor) for each, tensor in message.ListFields()}
    except (Refused, InvalidField, AssertionError):
        return None
