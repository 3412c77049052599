"""A peer that answers nothing more and does not hang up: the other side notices, and goes on.

Processes that are stopped stand for machines that lose power and cables that are pulled: the
connection stays, and nothing comes by it. The times of `connections` are shortened on both sides.
"""

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import losswire
from losswire import _channel
from losswire_proto import connections
from losswire_server import LocalServer

PATIENCE = 60.0
"""Of calls, in seconds: without pings they would take as long, and end in errors."""

SHORTER = {"CLIENT_PING_MS": 500, "SERVER_PING_MS": 500, "SHORTEST_PING_MS": 100}
SHORTER |= {"SHORTEST_PONG_MS": 1500, "LONGEST_PONG_MS": 1500}

SERVER = f"""
from losswire_proto import connections
vars(connections).update({SHORTER})
from losswire_server import child
child.main()
"""

STREAMING = f"""
import sys
import numpy as np
import losswire
from losswire import _stream
original = _stream._blocks
def blocks(*arguments):
    for index, message in enumerate(original(*arguments)):
        if index == 3:
            print("begun", flush=True)
            sys.stdin.read()
        yield message
_stream._blocks = blocks
_stream.BLOCK_BYTES = 400
with losswire.Client(sys.argv[1], transport="stream", timeout={PATIENCE}) as client:
    client.softmax(np.zeros((100, 10), np.float32))
"""

LOGITS = np.random.default_rng(7).normal(size=(100, 10)).astype(np.float32)


class Server(LocalServer):
    """A local one with these times."""

    _child = ("-c", SERVER)


@pytest.fixture
def _shorter(monkeypatch):
    """A client's, too."""
    for name, value in SHORTER.items():
        monkeypatch.setattr(connections, name, value)
    options = dict(_channel._OPTIONS)
    assert "grpc.keepalive_time_ms" in options
    options["grpc.keepalive_time_ms"] = SHORTER["CLIENT_PING_MS"]
    monkeypatch.setattr(_channel, "_OPTIONS", tuple(options.items()))


@pytest.mark.usefixtures("_shorter")
@pytest.mark.parametrize("transport", ["inline", "stream", "auto", "shared"])
def test_calls_of_a_server_that_hangs_go_to_another(client, transport):
    """Whether a call has begun there or is to begin: each is answered by the one that is left."""
    expected = client.softmax(LOGITS)
    with Server(engine="numpy") as hung, Server(engine="numpy") as left:
        target = f"ipv4:{hung.target},{left.target}"
        with losswire.Client(target, transport=transport, timeout=PATIENCE) as connected:
            for _ in range(4):  # both are known, and take turns
                connected.softmax(LOGITS)
            os.kill(hung.pid, signal.SIGSTOP)
            try:
                for _ in range(4):
                    assert connected.softmax(LOGITS).tobytes() == expected.tobytes()
            finally:
                os.kill(hung.pid, signal.SIGCONT)


def test_the_room_of_a_client_that_hangs_is_given_back():
    """Its stream was the only one that may be; another's begins all the same, in the end."""
    with Server(engine="numpy", max_streams=1, client_share=1.0) as server:
        child = subprocess.Popen(
            [sys.executable, "-c", STREAMING, server.target],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert child.stdout.readline() == b"begun\n"
            refused = losswire.Client(server.target, transport="stream", retries=False)
            with refused, pytest.raises(losswire.ServerBusy):
                refused.softmax(LOGITS)
            os.kill(child.pid, signal.SIGSTOP)
            with losswire.Client(server.target, transport="stream", timeout=PATIENCE) as other:
                assert other.softmax(LOGITS).shape == LOGITS.shape
        finally:
            child.kill()
            child.communicate()
