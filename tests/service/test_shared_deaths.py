"""Clients and servers that end at any moment: what they shared is let go, and nobody else minds."""

import asyncio
import os
import signal
import subprocess
import sys
import threading

import grpc
import numpy as np
import pytest

import losswire
from anyloss import bits, large
from gated import GatedServer
from losswire_server import LocalServer
from shared_memory import held_by, is_in_region, laid_out, wait_until

CALLER = """
import sys
import numpy as np
import losswire
client = losswire.Client(sys.argv[1], transport="shared")
logits = client.empty((700, 500))
logits[...] = 1
if sys.argv[2] == "after":
    kept = client.softmax_cross_entropy(logits, np.zeros(700, np.int64))
print("ready", flush=True)
if sys.argv[2] == "during":
    client.softmax_cross_entropy(logits, np.zeros(700, np.int64))
sys.stdin.read()
"""


class Caller:
    """A client in a process of its own.

    Args:
        target: of the server.
        moment: "before" its first call, "during" it, or "after" it.
    """

    def __init__(self, target, moment):
        command = [sys.executable, "-c", CALLER, target, moment]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe)
        assert self._process.stdout.readline() == b"ready\n"

    def kill(self):
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def _gated():
    with GatedServer() as running:
        yield running


@pytest.fixture
def gated(_gated):
    """A server whose engine is held at a gate while a test wants it; open again after it."""
    yield _gated
    _gated.open()


@pytest.fixture
def shared(gated):
    with losswire.Client(gated.target, transport="shared") as client:
        yield client


def test_a_client_that_is_killed():
    """Killed before or after a call, its regions go; other clients keep theirs and go on."""
    logits, ids, _ = large(np.float32)
    with (
        LocalServer(engine="numpy") as server,
        losswire.Client(server.target, transport="shared") as other,
    ):
        expected = bits(other.softmax_cross_entropy(logits, ids))
        del expected["grad_logits"]
        own = len(held_by(server.pid))
        assert own > 0
        callers = [Caller(server.target, moment) for moment in ("before", "after", "after")]
        assert len(held_by(server.pid)) > own
        for caller in callers:
            caller.kill()
        wait_until(lambda: len(held_by(server.pid)) == own, other)
        result = bits(other.softmax_cross_entropy(logits, ids))
        assert {name: result[name] for name in expected} == expected


def test_a_client_that_is_killed_while_the_server_computes(gated, shared):
    """The call finishes in memory that is still there, then its regions are gone."""
    logits, ids, _ = large(np.float32)
    before = len(gated.regions)
    gated.hold()
    caller = Caller(gated.target, "during")
    gated.wait_until_entered()
    assert len(gated.regions) > before
    caller.kill()
    wait_until(lambda: len(gated.regions) == before, shared)
    gated.open()
    gated.wait_until_left()
    assert np.isfinite(shared.softmax_cross_entropy(logits, ids).loss).all()


def calling(client, *arguments, **options):
    """A call on a thread; its outcome comes last in the list."""
    outcome = []

    def call():
        try:
            outcome.append(client.softmax_cross_entropy(*arguments, **options))
        except losswire.LosswireError as error:
            outcome.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    return thread, outcome


def test_a_server_that_is_killed(tmp_path):
    """The call fails, inputs stay as they were, and another server on the address is used."""
    logits, ids, _ = large(np.float32)
    path = tmp_path / "losswire.sock"
    with losswire.Client(f"unix:{path}", transport="shared", retries=False, timeout=60.0) as client:
        array = laid_out(client, logits, "region")
        with LocalServer(engine="numpy", unix_socket=path) as server:
            expected = bits(client.softmax_cross_entropy(array, ids))
            os.kill(server.pid, signal.SIGSTOP)
            perform, begun, used = client._perform, threading.Event(), []

            def tell(step, *others):
                if getattr(step, "rpc", None) == "Compute":
                    used.extend(client._paths.shared.regions._all)
                    begun.set()
                return perform(step, *others)

            client._perform = tell
            thread, outcome = calling(client, array, ids)
            assert begun.wait(30)
            os.kill(server.pid, signal.SIGKILL)
            thread.join()
        client._perform = perform
        assert isinstance(outcome[0], losswire.ServerUnavailable)
        assert np.array_equal(array, logits)
        ours = client._paths.shared.regions.find(array)[0]
        spoilt = [region for region in used if not region.is_reusable]
        assert spoilt
        assert ours not in spoilt
        others = [client.empty(logits.shape) for _ in range(4)]
        assert all(client._paths.shared.regions.find(each)[0] not in used for each in others)
        with LocalServer(engine="numpy", unix_socket=path):
            grpc.channel_ready_future(client._connection.channel()).result(60)
            assert bits(client.softmax_cross_entropy(array, ids)) == expected


@pytest.mark.parametrize("how", ["deadline", "cancelled"])
def test_a_call_that_is_given_up(gated, shared, how):
    """What the server writes when nobody waits any more reaches no other array."""
    logits, ids, soft = large(np.float32)
    options = {"gradients": ("logits", "labels"), "reduction": "sum"}
    gated.hold()
    if how == "deadline":
        with pytest.raises(losswire.DeadlineExceeded):
            shared.softmax_cross_entropy(logits, soft, timeout=0.3, **options)
        gated.wait_until_entered()
        client = shared
    else:
        client = losswire.AsyncClient(gated.target, transport="shared")

        async def play():
            task = asyncio.ensure_future(client.softmax_cross_entropy(logits, soft, **options))
            await asyncio.to_thread(gated.wait_until_entered)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            del task

        asyncio.run(play())
    others = [client.empty(logits.shape) for _ in range(5)]
    assert all(is_in_region(client, each) for each in others)
    for each in others:
        each[...] = 7
    gated.open()
    gated.wait_until_left()
    assert all((each == 7).all() for each in others)
    if how == "cancelled":
        asyncio.run(client.close())
    else:
        assert np.isfinite(client.softmax_cross_entropy(logits, ids).loss).all()


def test_a_client_that_is_closed():
    """close() has the server forget all regions, used and free; results outlive it."""
    logits, ids, _ = large(np.float32)
    with LocalServer(engine="numpy") as server, losswire.Client(server.target) as watcher:
        for _ in range(2):
            client = losswire.Client(server.target, transport="shared")
            array = laid_out(client, logits, "region")
            result = client.softmax_cross_entropy(array, ids)
            client.softmax_cross_entropy(logits, ids)  # its gradient is not kept
            assert held_by(server.pid)
            expected = bits(result)
            client.close()
            wait_until(lambda: not held_by(server.pid), watcher)
            assert bits(result) == expected
            assert np.array_equal(array, logits)
            client.close()


def test_a_client_that_is_closed_in_mid_call(gated):
    """The call ends with an error, close() does not wait for it, and what it used is let go."""
    logits, ids, _ = large(np.float32)
    client = losswire.Client(gated.target, transport="shared")
    gated.hold()
    thread, outcome = calling(client, logits, ids)
    gated.wait_until_entered()
    client.close()
    thread.join()
    assert isinstance(outcome[0], losswire.ServerError)
    with losswire.Client(gated.target) as watcher:
        wait_until(lambda: len(gated.regions) == 0, watcher)
    gated.open()
    gated.wait_until_left()
