"""Each fault of the injector happens, and no call through it is lost or wrong."""

import asyncio
import socket

import numpy as np
import pytest
from benchmarks.loop import Loop
from benchmarks.soak.faults import KINDS, UNDETECTED_IN_PLAIN_TEXT, Deck
from benchmarks.soak.links import Link
from benchmarks.soak.proxy import Proxy

import losswire
from anyloss import bits, large

LOGITS, IDS, _ = large(np.float32)


class Scripted(Deck):
    """One fault, at the nth chunk."""

    def __init__(self, kind, at):
        super().__init__(seed=at, every=1)
        self._kind, self._at = kind, at

    def next(self):
        self._at -= 1
        return None if self._at else self._kind


@pytest.fixture(scope="module")
def loop():
    with Loop() as running:
        yield running


@pytest.fixture(scope="module", params=["tcp", "tls"])
def link(request, loop, tmp_path_factory):
    """A server of each kind, its own proxy without any faults that matter."""
    folder = tmp_path_factory.mktemp(request.param)
    with Link(request.param, loop, folder, seed=1, every=1 << 30) as running:
        yield running


@pytest.fixture(scope="module")
def expected(link):
    with link.client() as client:
        return bits(client.softmax_cross_entropy(LOGITS, IDS))


@pytest.mark.parametrize("transport", ["inline", "stream", "shared"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_is_outlived(link, expected, kind, transport):
    """A call whose connection is hurt is right to the bit, and the fault did happen."""
    if kind == UNDETECTED_IN_PLAIN_TEXT and link.tls is None:
        pytest.skip("nobody can see it without TLS: SECURITY.md")
    proxy = link.new_proxy(Scripted(kind, at=8))
    try:
        with losswire.Client(proxy.target, transport=transport, tls=link.tls) as client:
            for _ in range(3):
                assert bits(client.softmax_cross_entropy(LOGITS, IDS)) == expected
        assert proxy.injected == {kind: 1}
    finally:
        proxy.close()


def test_faults_come_as_seeded():
    """Equal seeds give equal faults, every kind comes once before any comes again."""
    deck, again = Deck(3, 5), Deck(3, 5)
    drawn = [deck.next() for _ in range(300)]
    assert drawn == [again.next() for _ in range(300)]
    kinds = [kind for kind in drawn if kind is not None]
    assert set(kinds[:6]) == set(kinds[6:12]) == set(KINDS)
    other = Deck(4, 5)
    assert drawn != [other.next() for _ in range(300)]


def echoed(proxy, payload, count=None):
    """What comes back through a proxy before an echo: so many bytes, or what there is."""

    async def play():
        host, _, port = proxy.target.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(payload)
        try:
            return await reader.readexactly(len(payload) if count is None else count)
        except asyncio.IncompleteReadError as error:
            return error.partial
        except ConnectionResetError:
            return "reset"
        finally:
            writer.close()

    return asyncio.run(play())


@pytest.fixture
def echo(loop):
    """The address of an echo."""

    async def serve(reader, writer):
        while chunk := await reader.read(1 << 16):
            writer.write(chunk)
        writer.close()

    server = loop.run(asyncio.start_server(serve, "127.0.0.1", 0))
    yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    loop.run(closed(server))


async def closed(server):
    server.close()


@pytest.mark.parametrize(
    ("kind", "is_right"),
    [
        ("delay", lambda got, sent: got == sent),
        ("stall", lambda got, sent: got == sent),
        ("duplicate", lambda got, sent: got[:-1] == sent and got[-1:] in sent),
        ("truncate", lambda got, sent: got != "reset" and len(got) < len(sent)),
        ("drop", lambda got, _sent: got == "reset"),
        ("reset", lambda got, _sent: got == "reset"),
    ],
)
def test_what_a_fault_does_to_bytes(loop, echo, kind, is_right):
    """Delayed and slow bytes arrive whole; the others do what their names say."""
    proxy = Proxy(loop, echo, Scripted(kind, at=1))
    sent = bytes(range(256)) * 4
    try:
        # One byte more than what was sent is all that can be waited for.
        count = len(sent) + 1 if kind == "duplicate" else None
        assert is_right(echoed(proxy, sent, count), sent)
    finally:
        proxy.close()


def test_a_server_that_is_not_there(loop):
    """The proxy closes the connection, as the kernel would refuse it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        proxy = Proxy(loop, f"127.0.0.1:{free.getsockname()[1]}")
        try:
            assert echoed(proxy, b"hello") in {b"", "reset"}
        finally:
            proxy.close()
