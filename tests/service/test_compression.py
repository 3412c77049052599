"""Compressed messages: refused before they are inflated, so that a small one cannot fill memory."""

import re
from pathlib import Path

import grpc
import numpy as np
import pytest

import losswire
from losswire_server import LocalServer

BOMB = bytes(192 << 20)
"""A fifth of a megabyte when compressed, and well within what the server takes in one message."""

CALM = 24 << 20
"""Bytes that a server may need for anything else meanwhile: a few frames of 4 MiB each way."""


@pytest.fixture(scope="module")
def calm():
    """A server that has only been asked what a test asks it."""
    with LocalServer(engine="numpy", threads=1) as running:
        yield running


def peak_bytes(pid):
    """The most memory that a process has had at any time."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) << 10


def call(channel, method, message, algorithm):
    """Sends one compressed message, to a method of either kind."""
    path = f"/losswire.v1.LossService/{method}"
    if method == "Compute":
        return channel.unary_unary(path)(message, compression=algorithm, timeout=60)
    return list(channel.stream_stream(path)(iter([message]), compression=algorithm, timeout=60))


@pytest.mark.parametrize("algorithm", [grpc.Compression.Gzip, grpc.Compression.Deflate])
@pytest.mark.parametrize("method", ["Compute", "ComputeStream", "ComputeMany"])
@pytest.mark.parametrize("message", [b"x" * 1000, BOMB], ids=["small", "bomb"])
def test_what_is_compressed_is_refused_and_not_inflated(calm, method, algorithm, message):
    """UNIMPLEMENTED for any size and algorithm, and the server's memory stays as it was."""
    before = peak_bytes(calm.pid)
    options = [("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(calm.target, options) as channel:
        with pytest.raises(grpc.RpcError) as caught:
            call(channel, method, message, algorithm)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "is disabled" in caught.value.details()
        # Others on the same connection do not notice.
        channel.unary_unary("/losswire.v1.LossService/GetServerInfo")(b"", timeout=60)
    assert peak_bytes(calm.pid) - before < CALM


def test_a_client_that_compresses_by_default_is_told(calm):
    """The error names what is wrong, and the client of this package never compresses."""
    options = [("grpc.default_compression_algorithm", grpc.Compression.Gzip)]
    told = pytest.raises(grpc.RpcError, match="Compression algorithm 'gzip' is disabled")
    with grpc.insecure_channel(calm.target, options) as channel, told:
        channel.unary_unary("/losswire.v1.LossService/Compute")(b"x" * 1000)
    with losswire.Client(calm.target) as client:
        logits = np.zeros((1000, 100), np.float32)  # nothing but zeros, and sent as it is
        assert client.softmax_cross_entropy(logits, np.zeros(1000, np.int8)).loss.shape == (1000,)
