"""Memory shared between containers: they have no pid namespace in common, only a folder."""

import asyncio
import gc
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from contextlib import contextmanager

import grpc
import numpy as np
import pytest

import losswire
from anyloss import bits
from losswire import _shared
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_proto.v1 import loss_service_pb2_grpc as rpc
from losswire_server import LocalServer
from losswire_server.errors import StartupError
from losswire_server.handover import MOST_WAITING, TAKEN, Handover
from shared_memory import PROOF, SharedFile, is_in_region

LOGITS = np.linspace(-3, 3, 600_000, dtype=np.float32).reshape(600, 1000)
IDS = np.arange(600)


@pytest.fixture
def elsewhere(monkeypatch):
    """This process believes to be in a pid namespace of its own."""
    boot_id, _ = _shared._host()
    monkeypatch.setattr(_shared, "_host", lambda: (boot_id, 1))


@pytest.fixture
def folder(tmp_path):
    """One that both sides see."""
    return tmp_path


@pytest.fixture
def handing(folder):
    """A server that takes memory in the folder."""
    with LocalServer(engine="numpy", shared_directory=folder) as running:
        yield running


def socket_in(folder):
    [path] = folder.glob("*.sock")
    return path


@contextmanager
def connected(folder):
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.settimeout(30)
        connection.connect(str(socket_in(folder)))
        yield connection


@contextmanager
def stub_of(server):
    with grpc.insecure_channel(server.target) as channel:
        yield rpc.LossServiceStub(channel)


def refused(call, message):
    with pytest.raises(grpc.RpcError) as error:
        call(message)
    return error.value.code(), error.value.details()


def is_taken(connection, name, files):
    try:
        socket.send_fds(connection, [name], files)
        return connection.recv(1) == TAKEN
    except OSError:
        return False


def opened(stub, connection, file, name):
    """Hands a file over and announces it."""
    socket.send_fds(connection, [name], [file.fd])
    assert connection.recv(1) == TAKEN
    request = pb.OpenRegionRequest(shared_file=name.hex(), size_bytes=file.size, proof=PROOF)
    return stub.OpenRegion(request).region_id


@pytest.mark.usefixtures("elsewhere")
def test_memory_is_shared_without_a_common_namespace(handing):
    """Both clients share memory, with the bits of one message."""
    with losswire.Client(handing.target, transport="inline") as inline:
        expected = bits(inline.softmax_cross_entropy(LOGITS, IDS, reduction="mean"))
    with losswire.Client(handing.target, transport="shared") as client:
        own = client.empty(LOGITS.shape)
        own[...] = LOGITS
        for logits in (LOGITS, own):
            result = client.softmax_cross_entropy(logits, IDS, reduction="mean")
            assert is_in_region(client, result.grad_logits)
            assert bits(result) == expected
    with losswire.Client(handing.target) as client:  # which chooses by itself
        assert is_in_region(client, client.softmax_cross_entropy(LOGITS, IDS).grad_logits)


@pytest.mark.usefixtures("elsewhere")
def test_without_a_folder_there_is_none(server):
    """As before: another path by itself, and the reason where this one is forced."""
    with (
        losswire.Client(server.target, transport="shared") as client,
        pytest.raises(losswire.LosswireError, match="another container"),
    ):
        client.softmax_cross_entropy(LOGITS, IDS)


@pytest.mark.usefixtures("elsewhere")
def test_a_folder_that_this_side_does_not_mount(handing, folder, tmp_path_factory):
    """The socket is not there to be seen: nothing is shared, and the stream is taken."""
    hidden = tmp_path_factory.mktemp("hidden")
    shutil.move(socket_in(folder), hidden)
    with losswire.Client(handing.target) as client:
        result = client.softmax_cross_entropy(LOGITS, IDS)
        assert not is_in_region(client, result.grad_logits)


@pytest.mark.usefixtures("elsewhere")
def test_another_server_at_the_same_address(folder):
    """A client goes on with a server that took the place of its own."""
    with LocalServer(engine="numpy", shared_directory=folder) as first:
        port = first.target.rpartition(":")[2]
        client = losswire.Client(first.target, timeout=60)
        expected = bits(client.softmax_cross_entropy(LOGITS, IDS))
        os.kill(first.pid, signal.SIGKILL)
    with LocalServer(engine="numpy", shared_directory=folder, port=port), client:
        outcomes = []
        while len(outcomes) < 3:
            try:
                outcomes.append(client.softmax_cross_entropy(LOGITS, IDS))
            except losswire.ServerUnavailable:
                continue  # the connection is on its way
        assert {str(bits(each)) for each in outcomes} == {str(expected)}
        assert is_in_region(client, outcomes[-1].grad_logits)


@pytest.mark.usefixtures("elsewhere")
def test_a_client_that_is_gone_leaves_nothing(handing, folder):
    """What came over a connection is let go with it: the next announcement finds all room free."""
    with connected(folder) as connection, SharedFile(1 << 20) as file, stub_of(handing) as stub:
        region = opened(stub, connection, file, bytes(16))
        waiting = os.urandom(16)
        socket.send_fds(connection, [waiting], [file.fd])
        assert connection.recv(1) == TAKEN
        connection.close()
        close = pb.CloseRegionRequest(region_id=region)
        asked = pb.OpenRegionRequest(shared_file=waiting.hex(), size_bytes=file.size, proof=PROOF)
        # Seen by the server's event loop at some time.
        while True:
            code, _ = refused(stub.OpenRegion, asked)
            assert code is grpc.StatusCode.PERMISSION_DENIED
            if refused(stub.CloseRegion, close)[0] is grpc.StatusCode.NOT_FOUND:
                break


def test_names_that_nobody_handed_over(handing, folder):
    """A wrong name, another's name after it was taken, a wrong proof: one answer to all."""
    with connected(folder) as connection, SharedFile(1 << 16) as file, stub_of(handing) as stub:
        for name in ("", "../etc/passwd", bytes(16).hex()):
            asked = pb.OpenRegionRequest(shared_file=name, size_bytes=file.size, proof=PROOF)
            code, words = refused(stub.OpenRegion, asked)
            assert code is grpc.StatusCode.PERMISSION_DENIED
            assert "shared_file: the name of a file that was handed over" in words
        name = os.urandom(16)
        socket.send_fds(connection, [name], [file.fd])
        assert connection.recv(1) == TAKEN
        asked = pb.OpenRegionRequest(shared_file=name.hex(), size_bytes=file.size, proof=bytes(32))
        for _ in range(2):  # a wrong proof uses the name up
            assert refused(stub.OpenRegion, asked) == (code, words)


def test_files_that_are_no_sealed_memory(handing, folder, tmp_path):
    """A file that could be cut off, a pipe, a device: refused, and the server lives."""
    plain = tmp_path / "plain"
    plain.write_bytes(PROOF + bytes(1 << 16))
    reading, writing = os.pipe()
    with connected(folder) as connection, stub_of(handing) as stub, plain.open("r+b") as file:
        with open("/dev/zero", "r+b") as device:  # noqa: PTH123 -- no file to speak of
            for bad in (file.fileno(), reading, device.fileno()):
                name = os.urandom(16)
                socket.send_fds(connection, [name], [bad])
                assert connection.recv(1) == TAKEN
                asked = pb.OpenRegionRequest(
                    shared_file=name.hex(), size_bytes=1 << 16, proof=PROOF
                )
                code, _ = refused(stub.OpenRegion, asked)
                assert code in {
                    grpc.StatusCode.PERMISSION_DENIED,
                    grpc.StatusCode.INVALID_ARGUMENT,
                }
        with SharedFile(1 << 16) as good:
            assert opened(stub, connection, good, os.urandom(16))
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize(
    "messages",
    [
        [(b"short", 1)],
        [(b"x" * 17, 1)],
        [(b"x" * 16, 0)],
        [(b"x" * 16, 3)],
        [(b"x" * 16, 1)] * 2,
        [(bytes([number]) * 16, 1) for number in range(MOST_WAITING + 1)],
    ],
    ids=["short name", "long name", "no file", "several files", "a name twice", "too many"],
)
def test_what_is_no_handing_over_ends_the_connection(handing, folder, messages):
    """Nothing of it stays open in the server, and others go on."""
    before = len(os.listdir(f"/proc/{handing.pid}/fd"))  # noqa: PTH208 -- names are all
    with connected(folder) as connection, SharedFile(1 << 16) as file:
        assert not all(is_taken(connection, name, [file.fd] * count) for name, count in messages)
    with connected(folder) as connection, SharedFile(1 << 16) as file, stub_of(handing) as stub:
        region = opened(stub, connection, file, os.urandom(16))
        stub.CloseRegion(pb.CloseRegionRequest(region_id=region))
        # This connection, a call's own, and the mapping's file, which is closed at once.
        now = len(os.listdir(f"/proc/{handing.pid}/fd"))  # noqa: PTH208 -- the same
        assert now <= before + 2


@pytest.mark.usefixtures("elsewhere", "nothing_is_left")
def test_a_closed_client_leaves_nothing_open(handing):
    """No descriptor and no mapping stays in the client's process."""
    with losswire.Client(handing.target, transport="shared") as client:
        client.softmax_cross_entropy(LOGITS, IDS)
    del client
    gc.collect()


def test_a_stopped_server_takes_its_socket_along(folder):
    """Nothing is left in the folder."""
    with LocalServer(engine="numpy", shared_directory=folder):
        assert socket_in(folder)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["missing", "x" * 120])
def test_a_folder_that_cannot_be_used(folder, name):
    """Said at the start, with what to do."""

    async def made():
        Handover(folder / name, print)

    with pytest.raises(StartupError, match="shared_directory: cannot make a socket in"):
        asyncio.run(made())


CONTAINED = """
    import numpy as np, sys, losswire
    from losswire import _shared
    logits = np.linspace(-3, 3, 600_000, dtype=np.float32).reshape(600, 1000)
    with losswire.Client(sys.argv[1], transport="shared") as client:
        result = client.softmax_cross_entropy(logits, np.arange(600))
        print(client._paths.shared._handover is not None, float(result.per_example.sum()))
"""


def test_a_real_namespace_of_its_own(handing):
    """A client that can see none of the server's processes shares memory with it."""
    unshare = shutil.which("unshare")
    command = [str(unshare), "--user", "--map-root-user", "--pid", "--fork", "--mount-proc"]
    if unshare is None or subprocess.run([*command, "true"], check=False).returncode:
        pytest.skip("no namespaces can be made here")
    ran = subprocess.run(
        [*command, sys.executable, "-c", textwrap.dedent(CONTAINED), handing.target],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    with losswire.Client(handing.target, transport="inline") as client:
        expected = float(client.softmax_cross_entropy(LOGITS, IDS).per_example.sum())
    assert (ran.returncode, ran.stdout) == (0, f"True {expected}\n"), ran.stderr
