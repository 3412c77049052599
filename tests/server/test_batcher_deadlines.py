"""What is late or taken back: not computed, and a burden to nobody."""

import asyncio
import itertools
import sys
import weakref
from types import SimpleNamespace

import pytest

from batching import request_of, scenario, submitted
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
async def test_requests_are_let_go_wherever_they_stand(batcher, engine):
    """The first, the last and those between; the others keep their order, and memory goes.

    Of those who come then, as many bytes have the turns of those who went.
    """
    first = await submitted(batcher, 1)
    await engine.entered()
    tasks = dict(zip(range(2, 12), await submitted(batcher, *range(2, 12)), strict=True))
    (group,) = batcher._groups.values()
    requests = {each.request.rows: weakref.ref(each.request.logits) for each in group.all()}
    for gone in (2, 11, 5, 3, 7, 6):
        tasks[gone].cancel()
        await asyncio.wait([tasks.pop(gone)])
        assert requests[gone]() is None
        assert [each.request.rows for each in group.all()] == list(tasks)
        assert (len(group), group.rows) == (len(tasks), sum(tasks))
        assert group.first.request.rows == min(tasks)
    tasks |= dict(zip((2, 3), await submitted(batcher, 2, 3), strict=True))
    engine.release(2)
    await asyncio.gather(*first, *tasks.values())
    assert engine.batches == [[1], [4, 8, 2, 3, 9, 10]]


@scenario()
async def test_a_client_that_goes_takes_back_thousands(batcher, engine):
    """Whatever their order, each costs the event loop a few steps, not a look at all the others."""
    first = await submitted(batcher, 1)
    await engine.entered()
    answers = [asyncio.Future() for _ in range(4000)]
    waiting = [batcher.enqueue(request_of(2), None, each) for each in answers]
    steps = itertools.count()

    def count(_frame, _event, _argument):
        next(steps)
        return count

    (group,) = batcher._groups.values()
    for gone in (waiting[1::2][::-1], waiting[:-2:2]):
        before = sys.gettrace()
        sys.settrace(count)
        try:
            for each in gone:
                batcher.take_back(each)
        finally:
            sys.settrace(before)
    assert group.all() == [waiting[-2]]
    assert len(group._queue) <= 2
    assert next(steps) < 60 * len(waiting)
    batcher.take_back(waiting[0])  # once more
    assert len(group) == 1
    engine.release(2)
    await asyncio.gather(*first, answers[-2])
    assert engine.batches == [[1], [2]]


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


@scenario(quick_bytes=1 << 20)
async def test_nor_is_it_on_the_event_loop(batcher, engine):
    """Where a batch failed that was computed there: time goes by meanwhile."""
    loop = asyncio.get_running_loop()
    clock, compute, passed = loop.time, engine.compute, 0.0
    loop.time = lambda: clock() + passed

    def take_an_hour(requests):
        nonlocal passed
        passed += 3600.0
        return compute(requests)

    engine.compute, engine.failing = take_an_hour, {3}
    engine.release(100)
    calls = batcher.submit(request_of(3)), batcher.submit(request_of(2), loop.time() + 60)
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(each) for each in outcomes] == [RuntimeError, Expired]
    assert engine.batches == [[3, 2], [3]]


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


class Overloaded:
    """Both slots are taken, a kind of request takes 1,000 hours, and the clock goes as told."""

    def __init__(self, batcher, engine):
        self.batcher, self.engine = batcher, engine
        self._loop = asyncio.get_running_loop()
        self._clock, self._passed = self._loop.time, 0.0
        self._loop.time = lambda: self._clock() + self._passed
        self.first = []

    async def begin(self):
        """Has a batch in each slot."""
        self.first += await submitted(self.batcher, 100)
        await self.engine.entered()
        self.first += await submitted(self.batcher, 101, deadline=self._loop.time() + 3600)
        await self.engine.entered()

    async def ask(self, rows, hours, classes=3):
        """A request that gives so many hours; such take a thousand."""
        request = request_of(rows, classes)
        self.batcher._pace.note(request.form.batch_key, request.nbytes, 1000 * 3600)
        deadline = self._loop.time() + hours * 3600
        task = asyncio.ensure_future(self.batcher.submit(request, deadline))
        await asyncio.sleep(0)
        return task

    def after(self, hours):
        """So many hours later."""
        self._passed += hours * 3600

    async def end(self, batches, *tasks):
        """The batches that followed, begun one after the other, and which requests were late."""
        for _ in range(batches):
            self.engine.release()
            await self.engine.entered()
        self.engine.release(100)
        await asyncio.gather(*self.first)
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        return self.engine.batches[2:], [isinstance(each, Expired) for each in outcomes]


@scenario()
async def test_who_hardly_will_be_in_time_stands_aside(batcher, engine):
    """Who has waited longest is not begun too late, again and again, before those behind it."""
    overloaded = Overloaded(batcher, engine)
    await overloaded.begin()
    old = await overloaded.ask(2, hours=3400)
    overloaded.after(2500)
    young = await overloaded.ask(3, hours=3400)
    assert await overloaded.end(2, old, young) == ([[3], [2]], [False, False])


@scenario()
async def test_who_will_be_in_time_keeps_the_turn(batcher, engine):
    """An hour more is left than what it takes: all as ever, in one batch."""
    overloaded = Overloaded(batcher, engine)
    await overloaded.begin()
    old = await overloaded.ask(2, hours=4001)
    overloaded.after(3000)
    young = await overloaded.ask(3, hours=4001)
    assert await overloaded.end(1, old, young) == ([[2, 3]], [False, False])


@scenario()
async def test_who_stands_aside_does_so_for_other_batches_too(batcher, engine):
    """Those who share no batch with it, and have come after it, go first."""
    overloaded = Overloaded(batcher, engine)
    await overloaded.begin()
    old = await overloaded.ask(2, hours=3400, classes=5)
    overloaded.after(2500)
    young = [await overloaded.ask(n, hours=3400, classes=n) for n in (3, 4)]
    overloaded.after(1.5)  # none of them is held for company any more
    assert await overloaded.end(3, old, *young) == ([[3], [4], [2]], [False, False, False])


@scenario()
async def test_who_stood_aside_until_it_was_late_is_not_computed(batcher, engine):
    """It gets its error when nobody else waits, and room is given back."""
    overloaded = Overloaded(batcher, engine)
    await overloaded.begin()
    old = await overloaded.ask(2, hours=3400)
    overloaded.after(2500)
    young = await overloaded.ask(3, hours=9000)
    engine.release()
    await engine.entered()
    overloaded.after(1000)
    assert await overloaded.end(0, old, young) == ([[3]], [True, False])
    assert batcher._groups == {}


@scenario()
async def test_who_stood_aside_until_it_was_late_hears_of_it(batcher, engine):
    """Also where others keep coming, and the nearest deadline first."""
    overloaded = Overloaded(batcher, engine)
    await overloaded.begin()
    old = [await overloaded.ask(rows, hours) for rows, hours in ((2, 3300), (3, 3400), (4, 3200))]
    overloaded.after(2500)
    young = [await overloaded.ask(rows, hours=9000) for rows in (5, 600, 700)]
    engine.release()
    await engine.entered()
    assert engine.batches[2:] == [[5, 600]]
    overloaded.after(850)
    engine.release()
    await engine.entered()
    assert engine.batches[3:] == [[700]]
    await asyncio.sleep(0)
    assert [task.done() for task in old] == [True, False, True]
    assert await overloaded.end(1, *old, *young) == (
        [[5, 600], [700], [3]],
        [True, False, True, False, False, False],
    )


@scenario()
async def test_who_stands_aside_can_be_taken_back(batcher, engine):
    """It is let go at once, and nobody is computed for it."""
    overloaded = Overloaded(batcher, engine)
    await overloaded.begin()
    old = await overloaded.ask(2, hours=3400)
    overloaded.after(2500)
    young = await overloaded.ask(3, hours=3400)
    engine.release()
    await engine.entered()
    (group,) = batcher._groups.values()
    assert (len(group), group.rows, group.is_doubtful) == (1, 2, True)
    old.cancel()
    await asyncio.wait([old])
    assert batcher._groups == {}
    assert await overloaded.end(0, young) == ([[3]], [False])


@scenario()
async def test_what_a_batch_took_is_expected_of_the_next(batcher, engine):
    """The seconds that the engine took are noted under what the whole batch was."""
    ticks = SimpleNamespace(perf_counter=itertools.count(100.0, 7.0).__next__)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("losswire_server.computing.time", ticks)
        first = await submitted(batcher, 1)
        await engine.entered()
        rest = await submitted(batcher, 20, 20, 20)
        engine.release(2)
        await asyncio.gather(*first, *rest)
    form = request_of(20).form
    assert batcher._pace.expected(form.batch_key, 3 * form.nbytes) == 7.0
    assert batcher._pace.expected(form.batch_key, form.nbytes) == 0.0
