"""Replies that do not keep the contract."""

import numpy as np
import pytest

from losswire._replies import ReplyReader
from losswire._requests import Asked
from losswire_proto import tensors
from losswire_proto.losses import LossCall
from losswire_proto.rules import InvalidField
from losswire_proto.v1 import loss_service_pb2 as pb


def reply(gradient):
    return tensors.write(pb.ComputeResponse, b"", {"grad_logits": gradient}, {})


@pytest.mark.parametrize(
    "gradient",
    [np.ones((3, 3), np.float32), np.ones((1, 3), np.float32), np.ones((4, 3))],
    ids=["rows", "broadcast", "dtype"],
)
def test_a_gradient_of_other_logits_is_refused(gradient):
    """Where logits are given away they are not overwritten by what is no gradient of theirs."""
    logits = np.full((4, 3), 7, np.float32)
    call, ids = LossCall(grad_logits=True), np.zeros(4, np.int64)
    asked = Asked(call, b"", logits, 1, ids, "ids", {}, overwritten=logits)
    kept = Asked(call, b"", logits, 1, ids, "ids", {})
    reader = ReplyReader()
    for _ in range(2):  # of a new kind, and of one that is known
        with pytest.raises(InvalidField, match=r"reply\.grad_logits: expected float32 \[4, 3\]"):
            reader.read(reply(gradient), asked)
        reader.read(reply(gradient), kept)
    assert (logits == 7).all()
