"""Streams of other clients: cut as they like, and refused by name where they break the contract."""

from itertools import pairwise

import grpc
import numpy as np
import pytest

import losswire
from losswire_proto import tensors, wire
from losswire_proto.losses import LogSoftmax, LossCall, SequenceLoss, SigmoidCrossEntropy
from losswire_proto.rules import Spec
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_proto.v1 import loss_service_pb2_grpc, tensor_pb2
from served import Served

RANDOM = np.random.default_rng(8)
LOGITS = RANDOM.normal(size=(6, 3)).astype(np.float32)
IDS = np.array([0, 1, 2, 0, 1, 2], np.int32)
FLOATS = RANDOM.random((6, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def served():
    with Served() as running:
        yield running


@pytest.fixture(scope="module")
def stub(served):
    with grpc.insecure_channel(served.target) as channel:
        yield loss_service_pb2_grpc.LossServiceStub(channel)


def spec(array):
    described = tensors.describe("x", Spec.of(array))
    return tensor_pb2.TensorSpec(dtype=described.dtype, shape=described.shape)


def start(loss=None, logits=LOGITS, **fields):
    """The first message of a stream; ids unless the fields say otherwise."""
    call = LossCall(grad_logits=True) if loss is None else LossCall(loss)
    message = pb.ComputeStreamStart(options=wire.encode_call(call), logits_spec=spec(logits))
    for name, array in (fields or {"labels": IDS}).items():
        encode = spec if name == "labels_spec" else lambda array: tensors.encode("x", array)
        if array is not None:
            getattr(message, name).CopyFrom(encode(array))
    return pb.ComputeStreamRequest(start=message)


def block(first, last, logits=LOGITS, labels=None, **fields):
    """A block of rows of the logits, with some of its fields changed."""
    rows = {"first_row": first, "rows": last - first, "logits": logits[first:last].tobytes()}
    if labels is not None:
        rows["labels"] = labels[first:last].tobytes()
    return pb.ComputeStreamRequest(block=pb.RowBlock(**(rows | fields)))


WIDE = np.zeros((6, 6000), np.float32)
HUGE = np.broadcast_to(np.float32(0), (1 << 30, 1 << 20))

BAD = {
    "nothing at all": ([], "start: expected first, received nothing"),
    "an empty message": ([pb.ComputeStreamRequest()], "start: expected first, received nothing"),
    "block first": ([block(0, 6)], "start: expected first, received a block"),
    "two starts": ([start(), start()], "block: expected after start, received another start"),
    "empty later": (
        [start(), pb.ComputeStreamRequest()],
        "block: expected after start, received nothing",
    ),
    "a gap": (
        [start(), block(0, 2), block(3, 6)],
        "block.first_row: expected 2, the rows before it have been sent, received 3",
    ),
    "an overlap": ([start(), block(0, 2), block(1, 6)], "block.first_row: expected 2"),
    "not from the first row": ([start(), block(1, 6)], "block.first_row: expected 0"),
    "before the first row": ([start(), block(0, 6, first_row=-1)], "block.first_row: expected 0"),
    "too many rows": (
        [start(), block(0, 4), block(4, 6, rows=3)],
        "block.rows: expected 1 to 2, the rows not sent yet, received 3",
    ),
    "rows after the last": (
        [start(), block(0, 6), block(6, 7)],
        "block: expected 6 rows in all, received more",
    ),
    "zero rows": ([start(), block(0, 0)], "block.rows: expected 1 to 6"),
    "negative rows": ([start(), block(0, 6, rows=-6)], "block.rows: expected 1 to 6"),
    "missing rows": (
        [start(), block(0, 2), block(2, 5)],
        "block: expected 6 rows in all, received 5",
    ),
    "no rows": ([start()], "block: expected 6 rows in all, received 0"),
    "too few logits": (
        [start(), block(0, 2, logits=LOGITS[:1])],
        "block.logits.data: expected 24 bytes for float32 [2, 3], received 12 bytes",
    ),
    "too many logits": ([start(), block(0, 2, rows=1)], "received 24 bytes"),
    "too few labels": (
        [start(labels_spec=FLOATS), block(0, 1, labels=FLOATS[:1].repeat(2, 1))],
        "block.labels.data: expected 12 bytes for float32 [1, 3], received 24 bytes",
    ),
    "no labels": (
        [start(labels_spec=FLOATS), block(0, 2)],
        "block.labels.data: expected 24 bytes for float32 [2, 3], received 0 bytes",
    ),
    "labels nobody asked for": (
        [start(), block(0, 2, labels=FLOATS)],
        "block.labels: expected none without labels_spec, received some",
    ),
    "large labels nobody asked for": (
        [start(), block(0, 2, labels=WIDE)],
        "block.labels: expected none without labels_spec, received some",
    ),
    "large labels and logits": (
        [start(None, WIDE, labels=IDS), block(0, 2, logits=WIDE, labels=WIDE)],
        "block.labels: expected none without labels_spec, received some",
    ),
    "labels twice": (
        [start(labels=FLOATS, labels_spec=FLOATS)],
        "labels: expected one of labels and labels_spec, received both",
    ),
    "ids that come with the blocks": (
        [start(labels_spec=IDS)],
        "labels_spec: expected a float dtype, shape [6, 3], received int32 [6]",
    ),
    "ids of the logits' shape": (
        [start(labels_spec=FLOATS.astype(np.int64))],
        "labels_spec: expected a float dtype, shape [6, 3], received int64 [6, 3]",
    ),
    "labels that broadcast, in blocks": ([start(labels_spec=FLOATS[:1])], "float32 [1, 3]"),
    "labels for what has none": (
        [start(LogSoftmax(), labels=FLOATS)],
        "labels: expected none with log_softmax, received some",
    ),
    "labels in blocks for what has none": (
        [start(LogSoftmax(), labels_spec=FLOATS)],
        "labels: expected none with log_softmax, received some",
    ),
    "floats in blocks where ids are needed": (
        [start(SequenceLoss(), FLOATS[None], labels_spec=FLOATS[None])],
        "targets: expected class ids (an integer dtype, shape [1, 6]",
    ),
    "no labels anywhere": ([start(labels=None)], "labels: expected to be set, received nothing"),
    "ids out of range": (
        [start(labels=IDS + 1)],
        "labels: expected class ids in [0, 3), received 3 at index (2)",
    ),
    "bad weights": (
        [start(labels=IDS, sample_weight=np.float32([1, 1, np.inf, 1, 1, 1]))],
        "sample_weight: expected finite values, received inf at index (2)",
    ),
    "weights of another shape": (
        [start(labels=IDS, class_weight=np.ones(2))],
        "class_weight: expected a float dtype, shape [3], received float64 [2]",
    ),
    "weights of another loss": (
        [start(labels=IDS, pos_weight=np.ones(3))],
        "pos_weight: expected None with softmax_cross_entropy, received float64 [3]",
    ),
    "negative weights": (
        [start(SigmoidCrossEntropy(), labels_spec=FLOATS, pos_weight=-FLOATS)],
        "pos_weight: expected finite values >= 0",
    ),
    "no options": (
        [pb.ComputeStreamRequest(start={"logits_spec": spec(LOGITS)})],
        "options: expected to be set, received nothing",
    ),
    "no spec": (
        [pb.ComputeStreamRequest(start={"options": wire.encode_call(LossCall())})],
        "logits_spec: expected to be set, received nothing",
    ),
    "logits beyond all memory": (
        [start(None, HUGE, labels=IDS)],
        "labels: expected class ids (an integer dtype, shape [1073741824]",
    ),
    "weights for rows beyond all memory": (
        [start(LogSoftmax(), HUGE, sample_weight=np.ones(1))],
        "sample_weight: expected None with log_softmax",
    ),
}


@pytest.mark.parametrize(("messages", "words"), BAD.values(), ids=BAD.keys())
def test_what_breaks_the_contract_is_refused_by_name(served, stub, messages, words):
    """Each way a stream can be wrong has its words, and leaves nothing behind."""
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.ComputeStream(iter(messages), timeout=60))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, caught.value.details()
    assert words in caught.value.details()
    served.wait_until_idle()


def test_bytes_that_are_no_message(served):
    """Bytes that do not parse are refused, first or later."""
    with grpc.insecure_channel(served.target) as channel:
        call = channel.stream_stream("/losswire.v1.LossService/ComputeStream")
        for before in ([], [start().SerializeToString()]):
            with pytest.raises(grpc.RpcError) as caught:
                list(call(iter([*before, b"\xff" * 100]), timeout=60))
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert "received 100 other bytes" in caught.value.details()
    served.wait_until_idle()


def test_what_never_fits_is_refused():
    """A block beyond stream_bytes and labels beyond queue_bytes name the setting."""
    with Served(queue_bytes=5000, stream_bytes=5000) as served:
        with losswire.Client(served.target, transport="stream") as client:
            with pytest.raises(
                losswire.InvalidInput, match=r"at most 5000 bytes .client_share of stream_bytes."
            ):
                client.softmax_cross_entropy(np.zeros((100, 100)), np.zeros(100, np.int8))
            with pytest.raises(losswire.InvalidInput, match=r"at most 5000 bytes .queue_bytes."):
                client.softmax_cross_entropy(np.zeros((5000, 1)), np.zeros(5000, np.int8))
        served.wait_until_idle()


def test_a_bad_stream_harms_no_other(served, stub):
    """While others are refused, a stream whose blocks are on their way goes on."""
    served.engine.gate.clear()
    good = stub.ComputeStream(iter([start(), block(0, 2), block(2, 6)]), timeout=60)
    served.engine.wait_for_batch()
    for messages in ([start(), block(1, 6)], [block(0, 6)]):
        with pytest.raises(grpc.RpcError):
            list(stub.ComputeStream(iter(messages), timeout=60))
    served.engine.gate.set()
    assert [reply.WhichOneof("part") for reply in good] == ["block", "block", "summary"]
    served.wait_until_idle()


@pytest.mark.parametrize("cuts", [[0, 6], [0, 1, 2, 3, 4, 5, 6], [0, 5, 6], [0, 1, 6]])
def test_other_clients_cut_as_they_like(served, stub, cuts):
    """Generated code alone gets the same bits, whatever blocks it makes."""
    blocks = [block(*pair) for pair in pairwise(cuts)]
    replies = list(stub.ComputeStream(iter([start(), *blocks]), timeout=60))
    per_example = b"".join(reply.block.per_example for reply in replies)
    grad_logits = b"".join(reply.block.grad_logits for reply in replies)
    with losswire.Client(served.target, transport="inline") as client:
        expected = client.softmax_cross_entropy(LOGITS, IDS)
    assert per_example == expected.per_example.tobytes()
    assert grad_logits == expected.grad_logits.tobytes()
    assert replies[-1].summary.rows == 6


def test_other_clients_may_send_labels_whole(served, stub):
    """Floats of the logits' shape, sent before the blocks, count as those that come with them."""
    whole = [start(labels=FLOATS), block(0, 4), block(4, 6)]
    blockwise = [start(labels_spec=FLOATS)]
    blockwise += [block(a, b, labels=FLOATS) for a, b in ((0, 1), (1, 6))]
    results = []
    for messages in (whole, blockwise):
        replies = list(stub.ComputeStream(iter(messages), timeout=60))
        names = ("per_example", "grad_logits")
        results.append([b"".join(getattr(r.block, name) for r in replies) for name in names])
    assert results[0] == results[1]
