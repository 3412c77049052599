"""Streams that end before their time: nothing stays behind, and whoever asked is told."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

import grpc
import numpy as np
import pytest

import losswire
from losswire import _stream
from losswire_proto import wire
from losswire_proto.losses import LossCall, Softmax
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_proto.v1 import loss_service_pb2_grpc
from losswire_server import LocalServer
from losswire_server.streaming import BLOCKS_IN_FLIGHT
from served import LONG, Served

LOGITS = np.random.default_rng(3).normal(size=(4000, 256)).astype(np.float32)
LABELS = np.zeros(4000, np.int16)
BLOCKS = 40


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Each stream here has `BLOCKS` blocks, and many are left when it ends."""
    monkeypatch.setattr(_stream, "BLOCK_BYTES", LOGITS.nbytes // BLOCKS)


@pytest.fixture
def served():
    with Served() as running:
        yield running


def streaming(served):
    return losswire.Client(served.target, transport="stream", timeout=LONG)


def assert_well(served):
    """Nothing is held, and another stream is answered with the bits that it should have."""
    served.wait_until_idle()
    begun = len(served.engine.rows)
    served.engine.gate.set()
    with streaming(served) as client, losswire.Client(served.target, transport="inline") as other:
        loss = client.softmax_cross_entropy(LOGITS, LABELS).loss
        assert loss.tobytes() == other.softmax_cross_entropy(LOGITS, LABELS).loss.tobytes()
    served.wait_until_idle()
    assert len(served.engine.rows) == begun + BLOCKS + 1, "what nobody waits for was computed"


@pytest.mark.parametrize("labels", [LABELS, np.full((1, 256), 1 / 256)], ids=["ids", "serial"])
def test_a_closed_client_ends_its_stream(served, labels):
    """When a client is closed amid a stream, the call ends and the server lets go of it."""
    served.engine.gate.clear()
    errors = []
    client = streaming(served)
    gradients = True if labels is LABELS else ("logits", "labels")

    def call():
        with pytest.raises(losswire.ServerError, match="closed") as caught:
            client.softmax_cross_entropy(LOGITS, labels, gradients=gradients)
        errors.append(caught.value)

    thread = threading.Thread(target=call)
    thread.start()
    served.engine.wait_for_batch()
    client.close()
    thread.join()
    assert errors
    assert_well(served)


def test_a_cancelled_task_ends_its_stream(served):
    """Cancelling the asynchronous client's coroutine takes the blocks on their way back."""
    served.engine.gate.clear()

    async def play():
        async with losswire.AsyncClient(served.target, transport="stream") as client:
            task = asyncio.ensure_future(client.softmax_cross_entropy(LOGITS, LABELS, timeout=LONG))
            await asyncio.to_thread(served.engine.wait_for_batch)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(served.wait_until_idle)

    asyncio.run(play())
    assert_well(served)


@pytest.mark.parametrize("replies", [0, 1, 2, 5])
def test_a_call_that_is_cancelled_between_replies(served, replies):
    """Whatever the server was about to do with a block, its room is given back once."""
    with grpc.insecure_channel(served.target) as channel:
        stub = loss_service_pb2_grpc.LossServiceStub(channel)
        for _ in range(10):
            call = stub.ComputeStream(blocks(10), timeout=LONG)
            for _ in range(replies):
                next(call)
            call.cancel()
            served.wait_until_idle()
        # All have been sent and answered; the server waits for a block that does not come.
        held = threading.Event()
        call = stub.ComputeStream(blocks(replies, held), timeout=LONG)
        for _ in range(replies):
            next(call)
        call.cancel()
        held.set()
        served.wait_until_idle()


def blocks(count, held=None, rows=1 << 10, classes=256, sent=None):
    """The messages of a stream of softmax, more rows to come after the last of them."""
    spec = {"dtype": 3, "shape": [1 << 40, classes]}
    start = pb.ComputeStreamStart(options=wire.encode_call(LossCall(Softmax())), logits_spec=spec)
    yield pb.ComputeStreamRequest(start=start)
    elements = bytes(rows * classes * 4)
    for index in range(count):
        block = pb.RowBlock(first_row=index * rows, rows=rows, logits=elements)
        if sent is not None:
            sent.append(index)
        yield pb.ComputeStreamRequest(block=block)
    if held is not None:
        held.wait(LONG)


CHILD = """
import sys
import numpy as np
import losswire
client = losswire.Client(sys.argv[1], transport="stream", timeout=600)
client.softmax(np.zeros((400_000, 256), np.float32))
"""


def test_a_killed_client_leaves_nothing(served):
    """A client's process that is killed amid a stream frees its room on the server."""
    served.engine.gate.clear()
    child = subprocess.Popen([sys.executable, "-c", CHILD, served.target])
    served.engine.wait_for_batch()
    child.kill()
    child.wait()
    assert_well(served)


@pytest.mark.parametrize("stream_bytes", [256 << 20, 8 << 20])
def test_a_client_that_never_reads_holds_up_nobody(stream_bytes):
    """What waits for it is bounded, however much it sends, and others are served meanwhile."""
    most = 200
    sent = []
    with Served(stream_bytes=stream_bytes) as served:
        with grpc.insecure_channel(served.target) as channel:
            stub = loss_service_pb2_grpc.LossServiceStub(channel)
            call = stub.ComputeStream(blocks(most, rows=1 << 10, sent=sent), timeout=LONG)
            while served.window._free == stream_bytes:
                served.engine.wait_for_batch()
            with streaming(served) as client:
                for _ in range(3):
                    assert client.softmax_cross_entropy(LOGITS, LABELS).loss.shape == (4000,)
            computed = served.engine.rows.count(1 << 10)
            # Blocks and replies in gRPC's buffers on both sides, and those in flight here.
            assert computed <= 2 * BLOCKS_IN_FLIGHT + 40
            assert len(sent) < most
            call.cancel()
            served.wait_until_idle()
        assert_well(served)


def test_a_deadline_amid_a_stream(served):
    """The caller is told in time, and of the blocks that wait none is computed."""
    served.engine.gate.clear()
    with streaming(served) as client, pytest.raises(losswire.DeadlineExceeded, match=r"0\.5 s"):
        client.softmax_cross_entropy(LOGITS, LABELS, timeout=0.5)
    served.wait_until_idle()
    assert 1 <= len(served.engine.rows) <= BLOCKS_IN_FLIGHT
    assert_well(served)


def interrupted(monkeypatch, act):
    """Has a stream act when it has sent some of its messages and has been answered."""
    original, take, answered = _stream._blocks, _stream._Taker.take, threading.Event()

    def messages(*arguments):
        for index, message in enumerate(original(*arguments)):
            if index == 5:
                assert answered.wait(LONG)
                act()
            yield message

    def noted(self, payload):
        take(self, payload)
        answered.set()

    monkeypatch.setattr(_stream, "_blocks", messages)
    monkeypatch.setattr(_stream._Taker, "take", noted)


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_killed_server_is_unavailable(monkeypatch, kind):
    """When the server dies amid a stream, the caller learns that it is not there."""
    with LocalServer(engine="numpy") as server:
        interrupted(monkeypatch, lambda: os.kill(server.pid, signal.SIGKILL))

        async def play():
            async with losswire.AsyncClient(
                server.target, transport="stream", retries=False
            ) as client:
                await client.softmax_cross_entropy(LOGITS, LABELS)

        def call():
            with losswire.Client(server.target, transport="stream", retries=False) as client:
                client.softmax_cross_entropy(LOGITS, LABELS)

        with pytest.raises(losswire.ServerUnavailable, match=server.target):
            call() if kind == "sync" else asyncio.run(play())


def test_draining_finishes_a_stream(server, client, monkeypatch):
    """A stream in flight when the server is told to stop gets all its results; new calls none."""
    expected = client.log_softmax(LOGITS)
    with (
        LocalServer(engine="numpy", drain_seconds=LONG) as stopping,
        losswire.Client(stopping.target, transport="stream", retries=False) as connected,
    ):

        def stop():
            os.kill(stopping.pid, signal.SIGTERM)
            with suppress(losswire.ServerUnavailable):
                while True:  # until it is draining
                    connected.softmax(np.zeros((0, 3)))

        interrupted(monkeypatch, stop)
        result = connected.log_softmax(LOGITS)
    assert result.tobytes() == expected.tobytes()
