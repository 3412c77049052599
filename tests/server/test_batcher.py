"""The batcher with an engine whose batches start and end when the test says so."""

import asyncio
import itertools
import threading

import numpy as np
import pytest

from held import HeldEngine
from losswire_proto.losses import LossCall
from losswire_server.batcher import ALONE, ALONE_ELEMENTS, ENOUGH_BYTES, SLOTS, Batcher
from losswire_server.errors import Expired
from losswire_server.groups import BatchLimits
from losswire_server.requests import LossRequest

ROOMY = BatchLimits(rows=1000, nbytes=1 << 30, wait_us=3600_000_000)


def request_of(rows, classes=3, **fields):
    """A request that can be told by its number of rows."""
    ids = np.zeros(rows, np.int64)
    return LossRequest(LossCall(), np.zeros((rows, classes), np.float32), 1, ids, "ids", **fields)


def scenario(limits=ROOMY, quick_bytes=0):
    """Runs a coroutine function with a batcher over a held engine."""

    def decorate(test):
        def run():
            async def play():
                engine = HeldEngine(quick_bytes)
                batcher = Batcher(engine, limits)
                try:
                    await test(batcher, engine)
                finally:
                    engine.release(100)
                    await batcher.close()

            asyncio.run(play())

        run.__doc__, run.__name__ = test.__doc__, test.__name__
        return run

    return decorate


async def submitted(batcher, *sizes, **options):
    """Tasks of requests that have reached the batcher."""
    tasks = [asyncio.ensure_future(batcher.submit(request_of(n), **options)) for n in sizes]
    await asyncio.sleep(0)
    return tasks


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
async def test_an_answer_nobody_waits_for_harms_nothing(batcher, engine):
    """A request cancelled while it computes leaves the others of its batch their answers."""
    gone, *_ = tasks = await submitted(batcher, 1)
    await engine.entered()
    gone.cancel()
    tasks = await submitted(batcher, 2)
    engine.release(2)
    assert (await tasks[0]).per_example.shape == (2,)


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


@scenario(quick_bytes=1 << 20)
async def test_what_is_quick_is_computed_at_once_and_together(batcher, engine):
    """Small requests that have arrived leave as one batch, on no thread."""
    engine.release(1)
    await asyncio.gather(*await submitted(batcher, 2, 3, 4))
    assert engine.batches == [[2, 3, 4]]


@scenario(quick_bytes=1 << 20)
async def test_quick_requests_wait_for_as_many_as_last_time(batcher, engine):
    """After a batch of two, a single request waits for a second one, an hour if need be."""
    engine.release(100)
    await asyncio.gather(*await submitted(batcher, 1, 2))
    first = await submitted(batcher, 3)
    for _ in range(10):
        await asyncio.sleep(0)
    assert engine.batches == [[1, 2]]
    await asyncio.gather(*first, *await submitted(batcher, 4))
    assert engine.batches == [[1, 2], [3, 4]]


@scenario(BatchLimits(rows=1000, nbytes=1 << 30, wait_us=1000), quick_bytes=1 << 20)
async def test_quick_requests_do_not_wait_longer_than_that(batcher, engine):
    """A request whose company does not come leaves alone when its time is up."""
    engine.release(100)
    await asyncio.gather(*await submitted(batcher, 1, 2))
    await asyncio.gather(*await submitted(batcher, 3))
    assert engine.batches == [[1, 2], [3]]


def sized(rows):
    """The bytes of a request."""
    return request_of(rows).nbytes


@scenario(quick_bytes=sized(100) // ALONE)
async def test_what_is_alone_is_computed_at_once(batcher, engine):
    """A request that nobody is beside does not go by a thread, as far as it is not too large."""
    engine.release(100)
    alone, too_large = await submitted(batcher, 100), await submitted(batcher, 101)
    await asyncio.sleep(0)
    assert engine.batches == [[100]]
    assert engine.threads == [threading.current_thread()]
    await asyncio.gather(*alone, *too_large)
    assert engine.threads[1] is not engine.threads[0]


@scenario(quick_bytes=1 << 20)
async def test_what_takes_long_for_its_bytes_goes_to_a_thread(batcher, engine):
    """Many rows of one class are few bytes, and more work than the event loop stands still for."""
    engine.release(100)
    request = request_of(ALONE_ELEMENTS // 16, classes=1)
    batcher._engine.quick_bytes = request.nbytes // 2
    await batcher.submit(request)
    assert threading.current_thread() not in engine.threads


@scenario(quick_bytes=sized(100) // ALONE)
async def test_what_has_company_goes_to_threads(batcher, engine):
    """Two that came together, and one beside a batch in flight: the loop is kept for others."""
    pair = await submitted(batcher, 50, 50)
    await engine.entered()
    later = await submitted(batcher, 60)
    await asyncio.sleep(0)
    assert engine.batches == [[50, 50]]
    assert engine.threads != [threading.current_thread()]
    engine.release(100)
    await asyncio.gather(*pair, *later)


@scenario(quick_bytes=1 << 20)
async def test_a_fault_of_a_quick_batch_stays_with_its_request(batcher, engine):
    """What is computed at once is computed alone, too, when a batch fails."""
    engine.failing = {3}
    engine.release(100)
    good, bad = await submitted(batcher, 2, 3)
    assert (await good).per_example.shape == (2,)
    with pytest.raises(RuntimeError, match="a fault of the engine"):
        await bad
    assert engine.batches == [[2, 3], [2], [3]]


@scenario()
async def test_turns_are_forgotten_when_nobody_waits(batcher, engine):
    """Once the queue is empty, what a client has had before does not count."""
    (task,) = await submitted(batcher, 5, client="a")
    await engine.entered()
    assert not batcher._turns._next
    engine.release()
    await task


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
