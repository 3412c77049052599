"""The client's end of a stream, with a server that answers what the test says."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

import losswire
from losswire import _stream
from losswire_proto.v1 import loss_service_pb2 as pb

LOGITS = np.arange(12, dtype=np.float32).reshape(4, 3)


def answer(first, rows, **fields):
    """A block of results as a server sends it."""
    per_example = np.arange(first, first + rows, dtype=np.float32).tobytes()
    gradients = -LOGITS[max(first, 0) :][: max(rows, 0)]
    parts = {"per_example": per_example, "grad_logits": gradients.tobytes()} | fields
    block = pb.ResultBlock(first_row=first, rows=rows, **parts)
    return pb.ComputeStreamResponse(block=block).SerializeToString()


SUMMARY = pb.ComputeStreamResponse(summary={"rows": 4}).SerializeToString()


@pytest.fixture
def answering():
    """A client of a server whose replies are what the fixture was called with."""
    replies, received = [], []

    def handler(messages, _context):
        received.extend(messages)
        yield from replies

    server = grpc.server(ThreadPoolExecutor(2))
    rpcs = {"ComputeStream": grpc.stream_stream_rpc_method_handler(handler)}
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("losswire.v1.LossService", rpcs)]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with losswire.Client(f"127.0.0.1:{port}", transport="stream") as client:

        def ask(*messages, **options):
            replies[:], received[:] = messages, []
            labels = np.zeros(4, np.int8)
            return client.softmax_cross_entropy(LOGITS, labels, **options), received

        yield ask
    server.stop(None).wait()


@pytest.mark.parametrize(
    "replies",
    [
        [answer(0, 4)],
        [answer(row, 1) for row in range(4)],
        [answer(0, 3), answer(3, 1)],
    ],
    ids=["one", "four", "two"],
)
@pytest.mark.parametrize("block_bytes", [1, 24, 1000])
def test_the_server_may_cut_otherwise(answering, monkeypatch, replies, block_bytes):
    """Results come in whatever blocks the server likes, whatever the client's own are."""
    monkeypatch.setattr(_stream, "BLOCK_BYTES", block_bytes)
    result, received = answering(*replies, SUMMARY)
    assert result.per_example.tolist() == [0, 1, 2, 3]
    assert np.array_equal(result.grad_logits, -LOGITS)
    messages = [pb.ComputeStreamRequest.FromString(each) for each in received]
    assert [each.WhichOneof("part") for each in messages] == ["start"] + ["block"] * (
        len(messages) - 1
    )
    assert b"".join(each.block.logits for each in messages) == LOGITS.tobytes()
    assert [each.block.first_row for each in messages[1:]] == list(
        np.cumsum([0] + [each.block.rows for each in messages[1:-1]])
    )


BAD = {
    "no blocks": ([SUMMARY], "reply: expected 4 rows and a summary, received 0"),
    "no summary": ([answer(0, 4)], "reply: expected 4 rows and a summary, received 4"),
    "nothing": ([], "received 0"),
    "a gap": (
        [answer(0, 1), answer(2, 2)],
        "reply.block: expected rows from 1 on, of 4, received 2 to 4",
    ),
    "an overlap": ([answer(0, 2), answer(1, 3)], "received 1 to 4"),
    "too many rows": ([answer(0, 5)], "received 0 to 5"),
    "no rows": ([answer(0, 0)], "received 0 to 0"),
    "negative rows": ([answer(0, -1)], "received 0 to -1"),
    "a row before the first": ([answer(-1, 2)], "received -1 to 1"),
    "missing rows": ([answer(0, 3), SUMMARY], "received 3"),
    "no gradient": (
        [answer(0, 4, grad_logits=b"")],
        "reply.grad_logits.data: expected 48 bytes for float32 [4, 3], received 0 bytes",
    ),
    "losses of another size": (
        [answer(0, 4, per_example=bytes(32))],
        "reply.per_example.data: expected 16 bytes for float32 [4, 1], received 32 bytes",
    ),
    "no message": ([b"\xff" * 50], "Error parsing message"),
    "an empty message": ([b""], "received 0 to 0"),
}


@pytest.mark.parametrize(("replies", "words"), BAD.values(), ids=BAD.keys())
def test_replies_that_cannot_be_read(answering, replies, words):
    """A server that breaks the contract is named, with what was wrong, and the client goes on."""
    with pytest.raises(losswire.ServerError, match="the reply cannot be read") as caught:
        answering(*replies)
    assert words in str(caught.value)
    result, _ = answering(answer(0, 4), SUMMARY)
    assert result.per_example.tolist() == [0, 1, 2, 3]


def test_what_a_path_cannot_do_is_said():
    """A transport that there is not is refused when the client is made."""
    with pytest.raises(losswire.InvalidInput, match="transport: expected one of 'auto', 'inline'"):
        losswire.Client("127.0.0.1:1", transport="pigeon")


def test_labels_beyond_a_message_are_refused(monkeypatch):
    """Labels and weights go in one message, and the caller is told where they cannot."""
    monkeypatch.setattr(_stream, "LARGEST_MESSAGE", 1000)
    with (
        losswire.Client("127.0.0.1:1", transport="stream") as client,
        pytest.raises(losswire.InvalidInput, match="labels and weights of at most 1000 bytes"),
    ):
        client.softmax_cross_entropy(np.zeros((1000, 3)), np.zeros(1000, np.int8))
