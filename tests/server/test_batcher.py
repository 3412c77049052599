"""The batcher with an engine whose batches start and end when the test says so."""

import asyncio
import itertools

import pytest

from batching import request_of, scenario, submitted
from losswire_server.batcher import ENOUGH_BYTES, SLOTS
from losswire_server.groups import BatchLimits


@scenario()
async def test_idle_engine_is_not_kept_waiting(batcher, engine):
    """The first request starts at once, though it might wait an hour for company."""
    (task,) = await submitted(batcher, 5)
    await engine.entered()
    engine.release()
    assert (await task).per_example.shape == (5,)
    assert engine.batches == [[5]]


@scenario()
async def test_requests_that_come_meanwhile_share_a_batch(batcher, engine):
    """What arrives while the engine computes leaves together when it is idle again."""
    first = await submitted(batcher, 1)
    await engine.entered()
    rest = await submitted(batcher, 2, 3, 4)
    engine.release()
    await engine.entered()
    engine.release()
    results = await asyncio.gather(*first, *rest)
    assert engine.batches == [[1], [2, 3, 4]]
    assert [result.per_example.shape[0] for result in results] == [1, 2, 3, 4]


@scenario(BatchLimits(rows=10, nbytes=1 << 30, wait_us=3600_000_000))
async def test_full_batches_leave_early_and_never_overflow(batcher, engine):
    """A group beyond its row limit leaves while another batch computes, within the limit."""
    tasks = await submitted(batcher, 1)
    await engine.entered()
    tasks += await submitted(batcher, 4, 4, 4, 30, 2)
    await engine.entered()
    engine.release(2)
    for _ in range(2):
        await engine.entered()
        engine.release()
    await engine.entered()
    engine.release()
    await asyncio.gather(*tasks)
    assert engine.batches == [[1], [4, 4], [4], [30], [2]]


@scenario(BatchLimits(rows=1000, nbytes=1 << 30, wait_us=0))
async def test_at_most_so_many_batches_in_flight(batcher, engine):
    """No more batches compute at once than there are slots, however many are due."""
    tasks = []
    for size in range(1, 6):
        tasks += await submitted(batcher, size)
    for _ in range(SLOTS):
        await engine.entered()
    assert len(engine.batches) == SLOTS
    engine.release(100)
    await asyncio.gather(*tasks)
    assert list(itertools.chain(*engine.batches)) == [1, 2, 3, 4, 5]


@scenario(BatchLimits(rows=1000, nbytes=1 << 30, wait_us=1000))
async def test_the_wait_of_a_batch_ends(batcher, engine):
    """With a slot free, waiting requests leave when the first has waited its time."""
    tasks = await submitted(batcher, 1)
    await engine.entered()
    tasks += await submitted(batcher, 2, 3)
    await engine.entered()
    assert engine.batches == [[1], [2, 3]]
    engine.release(2)
    await asyncio.gather(*tasks)


@scenario()
async def test_unlike_requests_do_not_mix(batcher, engine):
    """Other classes make another batch."""
    tasks = await submitted(batcher, 1)
    await engine.entered()
    tasks += await submitted(batcher, 2)
    tasks.append(asyncio.ensure_future(batcher.submit(request_of(3, classes=4))))
    tasks += await submitted(batcher, 4)
    engine.release(3)
    await asyncio.gather(*tasks)
    assert sorted(engine.batches) == [[1], [2, 4], [3]]


@scenario()
async def test_a_fault_stays_with_its_request(batcher, engine):
    """When a batch fails, its requests are computed alone; only the faulty one fails."""
    engine.failing = {3}
    first = await submitted(batcher, 1)
    await engine.entered()
    good, bad, also_good = await submitted(batcher, 2, 3, 4)
    engine.release(5)
    await asyncio.gather(*first, good, also_good)
    with pytest.raises(RuntimeError, match="a fault of the engine"):
        await bad
    assert engine.batches == [[1], [2, 3, 4], [2], [3], [4]]


@scenario()
async def test_what_cannot_be_computed_twice_shares_no_batch(batcher, engine):
    """A request whose results lie over its inputs is computed alone: no fault but its own."""
    engine.failing = {3}
    first = await submitted(batcher, 1)
    await engine.entered()
    (good,) = await submitted(batcher, 2)
    in_place = asyncio.ensure_future(batcher.submit(request_of(4, is_in_place=True)))
    (bad,) = await submitted(batcher, 3)
    engine.release(5)
    await asyncio.gather(*first, good, in_place)
    with pytest.raises(RuntimeError, match="a fault of the engine"):
        await bad
    assert [4] in engine.batches
    assert not any(4 in batch for batch in engine.batches if len(batch) > 1)


@scenario()
async def test_a_large_group_waits_for_no_company(batcher, engine):
    """With a slot free, a group that gains nothing from more leaves while another computes."""
    first = await submitted(batcher, 1)
    await engine.entered()
    half = request_of(100, classes=ENOUGH_BYTES // 800)
    assert half.nbytes < ENOUGH_BYTES <= 2 * half.nbytes
    tasks = [asyncio.ensure_future(batcher.submit(half)) for _ in range(2)]
    await engine.entered()
    engine.release(2)
    await asyncio.gather(*first, *tasks)
    assert engine.batches == [[1], [100, 100]]


@scenario()
async def test_turns_are_forgotten_when_nobody_waits(batcher, engine):
    """Once the queue is empty, what a client has had before does not count."""
    (task,) = await submitted(batcher, 5, client="a")
    await engine.entered()
    assert not batcher._turns._next
    engine.release()
    await task


@scenario()
async def test_newcomers_do_not_restart_the_wait(batcher, engine):
    """A batch leaves when its first request has waited its time, whoever is before it by then."""
    tasks = await submitted(batcher, 1, client="a")
    await engine.entered()
    other = batcher.submit(request_of(50, classes=4), client="a")
    tasks += [asyncio.ensure_future(other), *await submitted(batcher, 2, client="a")]
    group = batcher._groups[request_of(2).batch_key]
    since = group.first_arrival
    tasks += await submitted(batcher, 3, client="b")
    assert group.all()[0].request.rows == 3
    assert batcher._due(group) == since + 3600
    engine.release(3)
    await asyncio.gather(*tasks)
