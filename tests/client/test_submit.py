"""`client.submit`: calls that are on their way while their caller does other work."""

import asyncio
import multiprocessing
import threading
from concurrent.futures import CancelledError

import numpy as np
import pytest

import losswire
from gated import GatedServer
from losswire._submitted import MOST

LOGITS = np.float32([[2.0, 1.0, 0.5], [1.0, 0.5, 0.0]])
IDS = np.array([0, 1])
KNOWN = [0.4643688, 1.1802697]


def test_a_call_by_method_and_by_name(client):
    """What the method returns, with its arguments and keywords."""
    by_method = client.submit(client.softmax_cross_entropy, LOGITS, IDS, reduction="sum")
    by_name = client.submit("softmax_cross_entropy", LOGITS, IDS)
    assert by_method.result(30).loss == pytest.approx(sum(KNOWN), rel=1e-6)
    np.testing.assert_allclose(by_name.result(30).per_example, KNOWN, rtol=1e-6)
    assert client.submit("server_info").result(30).backend == "numpy"


def test_what_a_call_raises(client):
    """It comes with the result."""
    future = client.submit("softmax_cross_entropy", LOGITS, [0, 3])
    with pytest.raises(losswire.InvalidInput, match=r"expected class ids in \[0, 3\)"):
        future.result(30)


@pytest.mark.parametrize("name", ["close", "_call", "softmin", ""])
def test_names_that_are_no_calls(client, name):
    """They are refused at once."""
    with pytest.raises(losswire.InvalidInput, match=r"^method: expected one of softmax_cross"):
        client.submit(name)


@pytest.fixture
def gated():
    with GatedServer() as running:
        yield running
        running.open()


def test_the_caller_goes_on(gated):
    """Nothing is waited for until the result is; several calls are on their way together."""
    with losswire.Client(gated.target, transport="inline") as client:
        gated.hold()
        futures = [client.submit("softmax_cross_entropy", LOGITS + n, IDS) for n in range(3)]
        gated.wait_until_entered()
        assert not any(future.done() for future in futures)
        gated.open()
        for future in futures:
            np.testing.assert_allclose(future.result(30).per_example, KNOWN, rtol=1e-5)


def test_there_is_an_end_to_what_waits(gated):
    """Who submits more than the threads can take waits until one of the calls is done."""
    with losswire.Client(gated.target, transport="inline") as client:
        gated.hold()
        futures = [client.submit("softmax_cross_entropy", LOGITS, IDS) for _ in range(MOST)]
        one_more = threading.Thread(
            target=lambda: futures.append(client.submit("softmax_cross_entropy", LOGITS, IDS))
        )
        one_more.start()
        gated.wait_until_entered()
        assert not client._submitted._room.acquire(blocking=False)
        assert len(futures) == MOST
        gated.open()
        one_more.join(30)
        assert len(futures) == MOST + 1
        for future in futures:
            future.result(30)
        for _ in range(MOST):  # all room is given back
            assert client._submitted._room.acquire(timeout=30)


def test_a_closed_client(gated):
    """Calls that were on their way end with an error, none is made any more."""
    client = losswire.Client(gated.target, transport="inline")
    gated.hold()
    future = client.submit("softmax_cross_entropy", LOGITS, IDS)
    gated.wait_until_entered()
    client.close()
    with pytest.raises((losswire.LosswireError, CancelledError)):
        future.result(30)
    with pytest.raises(RuntimeError, match="the client has been closed"):
        client.submit("softmax_cross_entropy", LOGITS, IDS)


def test_tasks_of_the_asynchronous_client(server):
    """By method and by name, with what they return and raise; cancelling takes a call back."""

    async def play():
        async with losswire.AsyncClient(server.target) as client:
            by_method = client.submit(client.softmax_cross_entropy, LOGITS, IDS, reduction="sum")
            by_name = client.submit("softmax_cross_entropy", LOGITS, [0, 3])
            cancelled = client.submit("softmax_cross_entropy", LOGITS, IDS)
            cancelled.cancel()
            assert (await by_method).loss == pytest.approx(sum(KNOWN), rel=1e-6)
            with pytest.raises(losswire.InvalidInput, match="expected class ids"):
                await by_name
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            with pytest.raises(losswire.InvalidInput, match=r"^method: expected one of"):
                client.submit("close")

    asyncio.run(play())


def test_after_a_fork(server):
    """A child submits by threads of its own."""
    with losswire.Client(server.target) as client:
        client.submit("softmax_cross_entropy", LOGITS, IDS).result(30)
        context = multiprocessing.get_context("fork")
        results = context.SimpleQueue()

        def child():
            results.put(client.submit("softmax_cross_entropy", LOGITS, IDS).result(30).per_example)

        process = context.Process(target=child)
        process.start()
        process.join(60)
        assert process.exitcode == 0
        np.testing.assert_allclose(results.get(), KNOWN, rtol=1e-6)
