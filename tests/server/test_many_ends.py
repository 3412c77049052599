"""How ComputeMany calls and their requests end before they are answered."""

import asyncio

import pytest

from held import HeldEngine
from losswire_server.errors import Draining, InvalidRequest
from many_run import Call, message, rows_of, scenario


@scenario()
async def test_cancelled_requests_are_neither_computed_nor_answered(call, engine):
    """A request that is taken back before its batch leaves is dropped; unknown ids are passed."""
    call.send((1, 1))
    first = asyncio.ensure_future(call.answer())
    await engine.entered()
    call.send((2, 2), (3, 3))
    call.send(cancelled=[2, 99])
    call.end()
    await call.read(3)
    engine.release(2)
    assert (await first).id == 1
    assert list(await call.rest()) == [3]
    assert engine.batches == [[1], [3]]


@scenario()
async def test_late_requests_are_not_computed(call, engine):
    """A request whose time has passed while it waited gets DEADLINE_EXCEEDED and no computing."""
    call.send((1, 1))
    first = asyncio.ensure_future(call.answer())
    await engine.entered()
    call.send((4, 4, {"timeout_ms": 3600_000}))  # due before a batch's hour of waiting is over
    await engine.entered()
    loop = asyncio.get_running_loop()
    call.send((2, 2, {"timeout_ms": 1}), (3, 3, {"timeout_ms": 3600_000}))
    call.end()
    await call.read(3)
    is_late = asyncio.Event()
    loop.call_later(0.002, is_late.set)
    await is_late.wait()
    engine.release(3)
    assert (await first).id in {1, 4}  # which were computed at the same time
    answers = await call.rest()
    assert rows_of(answers[3]) == 3
    assert answers[2].error.code == 4
    assert "the deadline passed before anything was computed" in answers[2].error.message
    assert engine.batches == [[1], [4], [3]]


@scenario(deadline=0.0)
async def test_the_deadline_of_the_stream_holds_for_its_requests(call, engine):
    """Requests without a timeout have the stream's deadline, and none has a later one."""
    call.send((1, 1), (2, 2, {"timeout_ms": 3600_000}))
    call.end()
    answers = await call.rest()
    assert [answers[i].error.code for i in (1, 2)] == [4, 4]
    assert engine.batches == []


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"\xff" * 9, "expected a losswire.v1.ComputeManyRequest, received 9 other bytes"),
        (b"", "requests: expected at least one, received none"),
        (message((4, 1), (4, 2)).SerializeToString(), "id: expected one that is not in use"),
    ],
)
def test_what_is_no_message_ends_the_call(payload, words):
    """A client that does not keep to the protocol is told so; what it had sent is answered."""

    async def play():
        call = Call(HeldEngine())
        call.engine.release(10)
        call.send((1, 2))
        assert rows_of(await call.answer()) == 2
        call.send_bytes(payload)
        with pytest.raises(InvalidRequest, match=words):
            await call.rest()
        await call.close()
        assert call.admission.held_bytes == 0

    asyncio.run(play())


@scenario()
async def test_draining_answers_what_was_read_and_ends(call, engine):
    """A server that stops finishes what is in flight, then ends the call, idle or not."""
    call.send((1, 2))
    first = asyncio.ensure_future(call.answer())
    await engine.entered()
    draining = asyncio.ensure_future(call.admission.drain(60))
    await asyncio.sleep(0)
    call.send((2, 2))
    engine.release()
    assert rows_of(await first) == 2
    with pytest.raises(Draining):
        await call.rest()
    assert await draining
    assert engine.batches == [[2]]


@scenario()
async def test_a_call_that_is_dropped_takes_its_requests_back(call, engine):
    """When the client is gone, nothing of its is computed any more or held."""
    call.send((1, 1))
    first = asyncio.ensure_future(call.answer())
    await engine.entered()
    call.send((2, 2), (3, 3))
    await call.read(2)
    first.cancel()
    await asyncio.wait([first])
    await call._replies.aclose()
    assert call.admission.held_bytes == 0
    assert call.batcher._groups == {}
    engine.release()
    assert engine.batches == [[1]]


@scenario()
async def test_a_drain_ends_a_call_that_has_not_read_anything(call, engine):
    """A call that began in the very turn in which the server is told to stop ends, too."""
    first = asyncio.ensure_future(anext(call._replies))
    await asyncio.sleep(0)  # the call has begun, its reader has not
    await call.admission.drain(60)
    with pytest.raises(Draining):
        await asyncio.wait_for(first, 20)


@scenario()
async def test_a_call_that_is_cancelled_twice_gives_all_back(call, engine):
    """A second cancellation, while the first is being seen to, leaves nothing behind."""
    call.send((1, 1), (2, 2))
    first = asyncio.ensure_future(call.answer())
    await engine.entered()
    for _ in range(2):
        first.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([first])
    assert call.admission.held_bytes == 0
    engine.release()
