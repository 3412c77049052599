"""Messages that differ in their elements alone are found to; all others are not."""

import numpy as np
import pytest

from losswire_proto import codec, many, tensors
from losswire_proto.losses import LossCall
from losswire_proto.skeleton import Skeletons
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_proto.v1 import tensor_pb2
from losswire_proto.wire import encode_call


def request(logits, labels, **options):
    head = pb.ComputeRequest(options=encode_call(LossCall(**options))).SerializeToString()
    arrays = {"labels": np.asarray(labels), "logits": np.asarray(logits, np.float32)}
    return tensors.write(pb.ComputeRequest, head, arrays, {})


FIRST = request([[1, 2, 3]], [0])


@pytest.fixture
def met():
    """Skeletons that have met `FIRST`."""
    skeletons = Skeletons(pb.ComputeRequest)
    skeletons.add(FIRST, skeletons.spans(FIRST), "known")
    return skeletons


def test_other_elements_are_the_same_kind(met):
    """Logits and labels may differ."""
    assert met.find(FIRST) == "known"
    assert met.find(request([[7, np.nan, -1]], [2])) == "known"


@pytest.mark.parametrize(
    "other",
    [
        request([[1], [2], [3]], [0]),  # as long, of another shape
        request([[1, 2, 3]], np.uint64([0])),  # of another dtype
        request([[1, 2, 3]], [0], axis=0),
        request([[1, 2, 3]], [0], reduction="sum"),
        FIRST + b"\x98\x06\x01",  # a field that nobody knows
        b"",
    ],
)
def test_anything_else_is_another_kind(met, other):
    """Shapes, dtypes, options and further fields are compared byte by byte."""
    assert met.find(other) is None


def test_where_elements_are():
    """The spans hold the elements and nothing else."""
    spans = codec.locate(pb.ComputeRequest, FIRST)
    assert {path: FIRST[span] for path, span in spans.items()} == {
        (6, 15): np.array([0]).tobytes(),
        (15, 15): np.float32([1, 2, 3]).tobytes(),
    }


def twice():
    """Protobuf lets the last bytes win."""
    tensor = tensor_pb2.Tensor(dtype=3, shape=[1], data=b"abcd").SerializeToString()
    return pb.ComputeRequest(logits=tensor_pb2.Tensor.FromString(tensor)).SerializeToString() * 2


@pytest.mark.parametrize(
    "payload",
    [
        twice(),
        FIRST + b"\x2a\x00",  # destinations: where results go is looked at each time
        FIRST + b"\x98\x06\x01",
        FIRST[:-1],
        b"\xff" * 20,
        FIRST + b"\x0a\x00" * 100,
    ],
)
def test_what_is_unusual_is_read_each_time(payload):
    """Fields that come twice, further fields, and bytes that are no message."""
    assert codec.locate(pb.ComputeRequest, payload) is None


def test_of_what_is_large_only_the_rest_is_kept(met):
    """Megabytes of elements are met again by the few bytes beside them."""
    first, second = (request(np.full((64, 4096), value), np.zeros(64, np.int8)) for value in (1, 2))
    met.add(first, met.spans(first), "large")
    assert met.find(second) == "large"
    assert met.find(second[:-1]) is None
    skeleton = met._by_size[len(first)][0]  # the one place that could hold on to a message
    assert skeleton.rest_bytes < 100


def test_kinds_are_not_kept_without_end(met):
    """A client that sends no two alike costs bounded memory."""
    for rows in range(1000):
        payload = request(np.zeros((rows, 3)), np.zeros(rows, np.int8))
        met.add(payload, met.spans(payload), rows)
    assert sum(map(len, met._by_size.values())) <= 256
    assert met.find(payload) == 999


@pytest.mark.parametrize("identifier", [1, 127, 128, 2**32, 2**64 - 1])
def test_elements_of_shared_messages(identifier):
    """Put together by hand, they are what protobuf reads."""
    payload = many.request(identifier, 30_000, FIRST) + many.cancelled([identifier, 5])
    message = pb.ComputeManyRequest.FromString(payload)
    (only,) = message.requests
    assert (only.id, only.timeout_ms) == (identifier, 30_000)
    assert only.request == pb.ComputeRequest.FromString(FIRST)
    assert list(message.cancelled_ids) == [identifier, 5]
    error = pb.RequestError(code=3, message="no")
    reply = many.response(identifier, b"") + many.failure(7, error.SerializeToString())
    answered, failed = pb.ComputeManyResponse.FromString(reply).responses
    assert (answered.id, answered.WhichOneof("outcome")) == (identifier, "response")
    assert (failed.id, failed.error) == (7, error)
