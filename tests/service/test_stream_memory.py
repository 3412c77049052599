"""The server's memory: bounded by the blocks in flight, and touched for the first time once."""

from pathlib import Path

import grpc
import numpy as np
import pytest

import losswire
from losswire_proto import wire
from losswire_proto.losses import LossCall, Softmax
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_proto.v1 import loss_service_pb2_grpc
from losswire_server import LocalServer

MIB = 1 << 20
STREAM_BYTES = 8 * MIB
TENSOR_BYTES = 200 * MIB

BESIDE_THE_WINDOW = 72 * MIB
"""What else grows in a new server, measured as 40 MiB: the engine's tiles, 4 MiB each and several
for each thread, and gRPC's buffers of blocks that it reads ahead and of replies on their way."""

FAULTS_PER_INLINE_REQUEST = 10
"""Measured: 0.5 to 1.6. Its tensors have 63 pages each way; where malloc maps such buffers afresh,
380 fault."""

FAULTS_PER_BLOCK = 60
"""Measured: 0 to 13. A block has 256 pages each way; where malloc is not told to keep them, 300
fault."""


def peak_bytes(server):
    status = Path(f"/proc/{server.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def reset_peak(server):
    Path(f"/proc/{server.pid}/clear_refs").write_text("5")


def page_faults(server):
    fields = Path(f"/proc/{server.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[7])


def blocks(rows=256, classes=1024):
    """The messages of a large tensor, whose blocks are all the same bytes."""
    count = TENSOR_BYTES // (rows * classes * 4)
    spec = {"dtype": 3, "shape": [rows * count, classes]}
    start = pb.ComputeStreamStart(options=wire.encode_call(LossCall(Softmax())), logits_spec=spec)
    yield pb.ComputeStreamRequest(start=start)
    elements = bytes(rows * classes * 4)
    for index in range(count):
        block = pb.RowBlock(first_row=index * rows, rows=rows, logits=elements)
        yield pb.ComputeStreamRequest(block=block)


def test_a_tensor_larger_than_the_window_takes_no_more_than_the_window():
    """Streamed up alone, or both ways, 200 MiB raise the server's peak by what is in flight."""
    row = np.random.default_rng(0).normal(size=1024).astype(np.float32)
    logits = np.broadcast_to(row, (TENSOR_BYTES // row.nbytes, row.size))
    labels = np.zeros(len(logits), np.int8)
    with (
        LocalServer(engine="numpy", threads=2, stream_bytes=STREAM_BYTES, client_share=1) as server,
        losswire.Client(server.target, transport="stream") as client,
        grpc.insecure_channel(server.target) as channel,
    ):
        client.softmax(logits[:1])
        reset_peak(server)
        before = peak_bytes(server)
        result = client.softmax_cross_entropy(logits, labels, gradients=False)
        assert len(set(result.per_example)) == 1
        stub = loss_service_pb2_grpc.LossServiceStub(channel)
        received = sum(len(reply.block.output) for reply in stub.ComputeStream(blocks()))
        assert received == TENSOR_BYTES
        assert peak_bytes(server) - before < STREAM_BYTES + BESIDE_THE_WINDOW


@pytest.mark.parametrize(
    ("transport", "rows", "calls", "most"),
    [
        ("inline", 64, 1000, FAULTS_PER_INLINE_REQUEST),
        ("stream", 25 * 262, 24, 25 * FAULTS_PER_BLOCK),
    ],
)
def test_pages_are_not_touched_for_the_first_time_again(transport, rows, calls, most):
    """Requests of one size after another, in messages or blocks, fault hardly a page."""
    logits = np.random.default_rng(0).normal(size=(rows, 1000)).astype(np.float32)
    labels = np.zeros(rows, np.int64)
    with (
        LocalServer(engine="numpy", threads=2) as server,
        losswire.Client(server.target, transport=transport) as client,
    ):

        def call(times):
            for _ in range(times):
                client.softmax_cross_entropy(logits, labels)

        call(calls // 2)
        before = page_faults(server)
        call(calls)
        assert (page_faults(server) - before) / calls < most
