"""What is late or taken back: not computed, and a burden to nobody."""

import asyncio

import pytest

from batching import scenario, submitted
from losswire_server.errors import Expired


@scenario()
async def test_cancelled_requests_are_not_computed(batcher, engine):
    """A request that was taken back before its batch left is dropped from it."""
    first = await submitted(batcher, 1)
    await engine.entered()
    kept, dropped = await submitted(batcher, 2, 3)
    dropped.cancel()
    engine.release(2)
    await asyncio.gather(*first, kept)
    assert engine.batches == [[1], [2]]
    assert dropped.cancelled()


@scenario()
async def test_cancelled_requests_are_let_go_at_once(batcher, engine):
    """While the engine is busy, requests that were taken back hold no memory in the queue."""
    first = await submitted(batcher, 1)
    await engine.entered()
    gone = await submitted(batcher, *range(2, 50))
    (kept,) = await submitted(batcher, 50)
    for task in gone:
        task.cancel()
    await asyncio.wait(gone)
    assert sum(group.rows for group in batcher._groups.values()) == 50
    kept.cancel()
    await asyncio.wait([kept])
    assert batcher._groups == {}
    engine.release()
    await asyncio.gather(*first)


@scenario()
async def test_late_requests_are_not_computed(batcher, engine):
    """A request whose deadline has passed gets its error and no computing."""
    first = await submitted(batcher, 1)
    await engine.entered()
    now = asyncio.get_running_loop().time()
    (late,) = await submitted(batcher, 2, deadline=now)
    (early,) = await submitted(batcher, 3, deadline=now + 1000)
    engine.release(2)
    await asyncio.gather(*first, early)
    with pytest.raises(Expired, match="before anything was computed"):
        await late
    assert engine.batches == [[1], [3]]


@scenario()
async def test_an_answer_nobody_waits_for_harms_nothing(batcher, engine):
    """A request cancelled while it computes leaves the others of its batch their answers."""
    gone, *_ = tasks = await submitted(batcher, 1)
    await engine.entered()
    gone.cancel()
    tasks = await submitted(batcher, 2)
    engine.release(2)
    assert (await tasks[0]).per_example.shape == (2,)


@scenario()
async def test_what_is_late_after_a_fault_is_not_computed_again(batcher, engine):
    """After a batch failed, its requests are computed alone, those that are late by then not."""
    loop = asyncio.get_running_loop()
    first = await submitted(batcher, 1)
    await engine.entered()
    engine.failing = {3}
    deadline = loop.time() + 0.3
    rest = await submitted(batcher, 3)
    late = await submitted(batcher, 2, deadline=deadline)
    engine.release()
    await engine.entered()
    passed = asyncio.Event()
    loop.call_at(deadline, passed.set)
    await passed.wait()
    engine.release(3)
    with pytest.raises(Expired):
        await late[0]
    with pytest.raises(RuntimeError):
        await rest[0]
    await first[0]
    assert engine.batches == [[1], [3, 2], [3]]


@scenario()
async def test_what_is_due_soon_is_not_held(batcher, engine):
    """With a slot free, a request that would be late after the wait leaves at once, in company."""
    loop = asyncio.get_running_loop()
    tasks = await submitted(batcher, 1)
    await engine.entered()
    tasks += await submitted(batcher, 2, deadline=loop.time() + 2.5 * 3600)
    await asyncio.sleep(0)
    assert len(batcher._in_flight) == 1
    tasks += await submitted(batcher, 3, deadline=loop.time() + 1800)
    await engine.entered()
    assert engine.batches == [[1], [2, 3]]
    engine.release(2)
    await asyncio.gather(*tasks)


@scenario()
async def test_what_was_due_soon_and_is_taken_back_hurries_nobody(batcher, engine):
    """Whoever is left of its group is held as before."""
    soon = asyncio.get_running_loop().time() + 1800
    tasks = await submitted(batcher, 1)
    await engine.entered()
    tasks += await submitted(batcher, 2, deadline=soon)
    await engine.entered()
    (gone,) = await submitted(batcher, 3, deadline=soon)
    tasks += await submitted(batcher, 4)
    gone.cancel()
    await asyncio.wait([gone])
    engine.release()
    await asyncio.wait(batcher._in_flight, return_when=asyncio.FIRST_COMPLETED)
    await asyncio.sleep(0)  # until the batcher has seen it, too
    assert len(batcher._in_flight) == 1
    engine.release(2)
    await asyncio.gather(*tasks)


@scenario(quick_bytes=1 << 20)
async def test_what_is_quick_and_due_soon_is_not_held(batcher, engine):
    """Nor does it wait for as many as came together the last time."""
    engine.release(100)
    await asyncio.gather(*await submitted(batcher, 1, 2))
    deadline = asyncio.get_running_loop().time() + 1800
    (task,) = await submitted(batcher, 3, deadline=deadline)
    assert (await task).per_example.shape == (3,)
