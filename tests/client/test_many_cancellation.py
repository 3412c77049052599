"""Calls on the shared stream that are taken back: too late, cancelled, or interrupted."""

import asyncio
import signal
import threading

import pytest

import losswire
from fake_server import IDS, LOGITS, played, started

fake = pytest.fixture(played)


def test_timeouts(fake):
    """A call without an answer in time ends, says so as a unary one, and is taken back."""
    with losswire.Client(fake.target) as client:
        with pytest.raises(losswire.DeadlineExceeded) as caught:
            client.softmax_cross_entropy(LOGITS, IDS, timeout=0.05)
        assert str(caught.value) == f"no answer from {fake.target} within 0.05 s: Deadline Exceeded"
        (request,) = fake.requests(1)
        assert 1 <= request.timeout_ms <= 50
        assert list(fake.messages.get(timeout=30).cancelled_ids) == [request.id]

    async def play(seconds):
        async with losswire.AsyncClient(fake.target) as client:
            await client.softmax_cross_entropy(LOGITS, IDS, timeout=seconds)

    for seconds in (0.05, 1.0):
        with pytest.raises(losswire.DeadlineExceeded, match=f"within {seconds:g} s: Deadline"):
            asyncio.run(play(seconds))


def test_cancelling_a_task_takes_its_call_back(fake):
    """The server is told; other calls on the stream go on."""

    async def play():
        async with losswire.AsyncClient(fake.target) as client:
            tasks = [
                asyncio.ensure_future(client.softmax_cross_entropy(LOGITS, IDS)) for _ in range(2)
            ]
            gone, kept = await asyncio.to_thread(fake.requests, 2)
            tasks[0].cancel()
            with pytest.raises(asyncio.CancelledError):
                await tasks[0]
            told = await asyncio.to_thread(fake.messages.get, timeout=30)
            assert list(told.cancelled_ids) == [gone.id]
            fake.refuse(gone.id, 3, "nobody waits")
            fake.refuse(kept.id, 3, "the other")
            with pytest.raises(losswire.InvalidInput, match="the other"):
                await tasks[1]

    asyncio.run(play())


@pytest.fixture
def ctrl_c():
    """Python's own way with SIGINT; a process started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_takes_the_call_back(fake):
    """An interrupted call is cancelled at the server, and the client goes on working."""
    with losswire.Client(fake.target) as client:

        def interrupt():
            interrupted.append(fake.requests(1)[0].id)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

        interrupted = []
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            client.softmax_cross_entropy(LOGITS, IDS)
        thread.join()
        assert list(fake.messages.get(timeout=30).cancelled_ids) == interrupted
        outcomes = started(client)
        fake.refuse(fake.requests(1)[0].id, 3, "goes on")
        assert "goes on" in str(outcomes.get(timeout=30))
