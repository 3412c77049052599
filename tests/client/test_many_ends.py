"""The shared stream ends with its client, its server or its process; calls go on over another."""

import asyncio
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

import losswire
from anyloss import bits
from fake_server import IDS, LOGITS, outcome_of, played, started
from losswire_server import LocalServer

fake = pytest.fixture(played)


def eventually(condition):
    """Returns when it holds; pytest's timeout says when it never does."""
    while not condition():
        os.sched_yield()


def test_closing_fails_what_is_in_flight(fake):
    """Calls in flight at close end with an error, on both clients; later ones say it is closed."""
    client = losswire.Client(fake.target)
    outcomes = started(client, 3)
    fake.requests(3)
    client.close()
    for _ in range(3):
        error = outcomes.get(timeout=30)
        assert type(error) is losswire.ServerError
        assert "the client was closed" in str(error)
        assert error.code is grpc.StatusCode.CANCELLED
    with pytest.raises(RuntimeError, match="the client has been closed"):
        client.softmax_cross_entropy(LOGITS, IDS)

    async def play():
        client = losswire.AsyncClient(fake.target)
        task = asyncio.ensure_future(client.softmax_cross_entropy(LOGITS, IDS))
        await asyncio.to_thread(fake.requests, 1)
        await client.close()
        with pytest.raises(losswire.ServerError, match="the client was closed"):
            await task
        with pytest.raises(RuntimeError, match="the client has been closed"):
            await client.softmax_cross_entropy(LOGITS, IDS)

    asyncio.run(play())


def test_a_client_that_is_dropped_ends_its_stream(fake):
    """Without close, too, the server is not left with a stream that nobody uses."""
    client = losswire.Client(fake.target)
    outcomes = started(client)
    fake.refuse(fake.requests(1)[0].id, 3, "no matter")
    outcomes.get(timeout=30)
    stream = client._many._owned[1]
    del client
    gc.collect()
    assert stream.is_over
    assert fake.messages.get(timeout=30) is None


def test_a_killed_server_and_its_successor(tmp_path):
    """Without retries every call in flight fails; a new server at the same place is found."""
    path = tmp_path / "losswire.sock"
    with LocalServer(engine="numpy", unix_socket=path) as first:
        client = losswire.Client(first.target, retries=False)
        expected = client.softmax_cross_entropy(LOGITS, IDS)
        os.kill(first.pid, signal.SIGSTOP)  # so that the calls are surely in flight
        outcomes = started(client, 8)
        eventually(lambda: len(client._many._owned[1]._in_flight) == 8)
        os.kill(first.pid, signal.SIGKILL)
        errors = [outcomes.get(timeout=30) for _ in range(8)]
        assert [type(error) for error in errors] == [losswire.ServerUnavailable] * 8, errors
    with LocalServer(engine="numpy", unix_socket=path), client:
        again = outcome_of(lambda: client.softmax_cross_entropy(LOGITS, IDS))
        while isinstance(again, losswire.ServerUnavailable):  # until gRPC tries the socket again
            again = outcome_of(lambda: client.softmax_cross_entropy(LOGITS, IDS))
        assert bits(again) == bits(expected)


def test_an_idle_stream_keeps_no_server(tmp_path):
    """A server drains at once though a stream is open; the next call finds its successor."""
    path = tmp_path / "losswire.sock"
    server = LocalServer(engine="numpy", unix_socket=path, drain_seconds=60.0)
    with losswire.Client(server.target) as client:
        expected = client.softmax_cross_entropy(LOGITS, IDS)
        stream = client._many._owned[1]
        server.close()  # kills it, and fails below, if it does not end in 10 s
        assert server._process.returncode == 0
        eventually(lambda: stream.is_over)
        with LocalServer(engine="numpy", unix_socket=path):
            again = outcome_of(lambda: client.softmax_cross_entropy(LOGITS, IDS))
            while isinstance(again, losswire.ServerUnavailable):
                again = outcome_of(lambda: client.softmax_cross_entropy(LOGITS, IDS))
            assert bits(again) == bits(expected)


def _calls_in_child(client, pipe):
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(client.softmax_cross_entropy, LOGITS, IDS) for _ in range(8)]
        pipe.send([call.result().loss.tolist() for call in calls])


def test_forks_while_calls_are_in_flight(server):
    """Children have streams of their own; the parent's calls go on meanwhile."""
    context = multiprocessing.get_context("fork")
    is_over = threading.Event()
    with losswire.Client(server.target) as client, ThreadPoolExecutor(4) as threads:
        expected = client.softmax_cross_entropy(LOGITS, IDS).loss.tolist()

        def work():
            while not is_over.is_set():
                assert client.softmax_cross_entropy(LOGITS, IDS).loss.tolist() == expected

        working = [threads.submit(work) for _ in range(4)]
        try:
            for _ in range(5):
                ours, theirs = context.Pipe()
                child = context.Process(target=_calls_in_child, args=(client, theirs))
                child.start()
                theirs.close()
                assert ours.poll(30), "the child hangs"
                assert ours.recv() == [expected] * 8
                child.join(30)
                assert child.exitcode == 0
        finally:
            is_over.set()
        for each in working:
            each.result()


ENDING = """
import sys, threading, numpy as np, losswire
client = losswire.Client(sys.argv[1])
call = lambda: client.softmax_cross_entropy(np.zeros((2, 3)), np.array([0, 1]))
threads = [threading.Thread(target=call) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(call().loss)
"""


def test_an_interpreter_with_an_open_stream_ends(server):
    """A program that closes nothing ends by itself, silently."""
    command = [sys.executable, "-W", "error", "-c", ENDING, server.target]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("[1.09")
