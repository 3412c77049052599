"""What takes less time than handing it to a thread is computed on the event loop."""

import asyncio
import threading

import pytest

from batching import request_of, scenario, submitted
from losswire_server.batcher import ALONE, ALONE_ELEMENTS
from losswire_server.groups import BatchLimits


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
