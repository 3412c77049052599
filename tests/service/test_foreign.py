"""Calls that no gRPC client would make, written by hand: whoever can connect can send them."""

import socket
import struct

import pytest

import losswire
from losswire_server import LocalServer
from served import LONG

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, SETTINGS, PING = 1, 4, 6
ENDS, ACKNOWLEDGES = 5, 1


def frame(kind, flags, stream, content):
    """A frame of HTTP/2."""
    return struct.pack(">I", len(content))[1:] + struct.pack(">BBI", kind, flags, stream) + content


def headers(path):
    """Those of a call, each as it is: neither known before nor kept for later."""
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": path,
        b":authority": b"localhost",
        b"te": b"trailers",
        b"content-type": b"application/grpc",
    }
    return b"".join(
        b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value
        for name, value in fields.items()
    )


def acknowledged(connection, content):
    """Reads until the ping of this content has come back: what was sent before has been read."""
    received = b""
    while frame(PING, ACKNOWLEDGES, 0, content) not in received:
        more = connection.recv(1 << 16)
        assert more, "the connection was closed"
        received += more


@pytest.mark.parametrize(
    "path", [b"/\xff", b"/losswire.v1.LossService/Comp\xc3\x28te", b"\xfe/x", b"/" + b"\x80" * 100]
)
def test_a_path_that_is_no_text_harms_nobody(path):
    """Who was there goes on, and others may come; the call itself is nobody's."""
    with LocalServer(engine="numpy") as server, losswire.Client(server.target) as before:
        before.softmax([[1.0, 2.0]])
        host, port = server.target.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=LONG) as connection:
            call = frame(HEADERS, ENDS, 1, headers(path))
            ping = frame(PING, 0, 0, b"are here")
            connection.sendall(PREFACE + frame(SETTINGS, 0, 0, b"") + call + ping)
            acknowledged(connection, b"are here")
            assert before.softmax([[1.0, 2.0]], timeout=LONG).shape == (1, 2)
            with losswire.Client(server.target, retries=False) as after:
                assert after.softmax([[1.0, 2.0]], timeout=LONG).shape == (1, 2)
