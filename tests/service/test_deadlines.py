"""Nothing that is late or taken back is computed, on any path: what the engine is handed counts."""

import asyncio
import threading
import time

import numpy as np
import pytest

import losswire
from losswire import _stream
from served import LONG, Served

LARGE = np.zeros((600, 500), np.float32)
SMALL = np.zeros((7, 5), np.float32)
CALLS = [("auto", SMALL), ("inline", LARGE), ("stream", LARGE)]
IN_FLIGHT = 2
"""Batches that the engine has at the same time."""


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(_stream, "BLOCK_BYTES", LARGE.nbytes // 12)


@pytest.fixture
def busy():
    """A server whose engine has all it takes at a time, and does not finish it."""
    with Served() as served:
        served.engine.gate.clear()
        with losswire.Client(served.target, transport="inline", timeout=LONG) as client:
            threads = [
                threading.Thread(target=client.softmax, args=(np.zeros((1, 3 + n)),))
                for n in range(IN_FLIGHT)
            ]
            for thread in threads:
                thread.start()
                served.engine.wait_for_batch()
            yield served
            served.engine.gate.set()
            for thread in threads:
                thread.join()


def eventually(condition):
    """Returns when it holds; pytest's timeout says when it never does."""
    while not condition():
        pass


def waiting(served):
    """The requests that the batcher has and has not begun."""
    return [each for group in list(served._batcher._groups.values()) for each in group.all()]


def assert_nothing_more_was_computed(served):
    served.engine.gate.set()
    with losswire.Client(served.target, transport="inline", timeout=LONG) as client:
        client.softmax(np.zeros((2, 90)))
    assert served.engine.rows == [1] * IN_FLIGHT + [2]


@pytest.mark.parametrize(("transport", "logits"), CALLS)
def test_what_is_late(busy, transport, logits):
    """A call whose deadline passes while it waits gets DeadlineExceeded, and is not computed."""
    with losswire.Client(busy.target, transport=transport) as client:
        with pytest.raises(losswire.DeadlineExceeded):
            client.softmax(logits, timeout=0.2)
        # The server counts from when it was told of it.
        eventually(lambda: all(each.deadline <= time.monotonic() for each in waiting(busy)))
        assert_nothing_more_was_computed(busy)


@pytest.mark.parametrize(("transport", "logits"), CALLS)
def test_what_is_taken_back(busy, transport, logits):
    """A call that is cancelled while it waits is not computed."""

    async def play():
        async with losswire.AsyncClient(busy.target, transport=transport) as client:
            task = asyncio.ensure_future(client.softmax(logits, timeout=LONG))
            await asyncio.to_thread(eventually, lambda: busy._batcher._groups)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await asyncio.to_thread(eventually, lambda: not busy._batcher._groups)

    asyncio.run(play())
    assert_nothing_more_was_computed(busy)


@pytest.mark.parametrize(("transport", "logits"), CALLS)
def test_what_waits_knows_its_deadline(busy, transport, logits):
    """The call's own, on every path: by it the server tells what is late, and what is urgent."""

    async def play():
        async with losswire.AsyncClient(busy.target, transport=transport) as client:
            task = asyncio.ensure_future(client.softmax(logits, timeout=LONG))
            await asyncio.to_thread(eventually, lambda: waiting(busy))
            left = [each.deadline - time.monotonic() for each in waiting(busy)]
            assert all(0 < seconds <= LONG + 1 for seconds in left)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(play())
