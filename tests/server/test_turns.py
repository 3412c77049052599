"""Clients share the engine by bytes: one that asks for much stands behind itself."""

import asyncio

import numpy as np
import pytest

from held import HeldEngine
from losswire_proto.losses import LossCall
from losswire_server.batcher import SLOTS, Batcher
from losswire_server.groups import BatchLimits
from losswire_server.requests import LossRequest
from losswire_server.turns import Turns

CLASSES = 50
MANY = 300


def request_of(rows, classes=CLASSES):
    logits = np.zeros((rows, classes), np.float32)
    return LossRequest(LossCall(), logits, 1, np.zeros(rows, np.int64), "ids")


def test_one_client_is_served_in_order():
    """Alone, a client's requests have their turns as they come, whatever their sizes."""
    turns = Turns()
    given = [turns.give("a", nbytes) for nbytes in (10, 0, 5, 1000, 1)]
    assert given == sorted(set(given))


def test_bytes_are_shared():
    """Of two that always have more waiting, each gets half of the bytes, not of the requests."""
    turns = Turns()
    waiting = [(turns.give("large", 1000), "large", 1000) for _ in range(100)]
    waiting += [(turns.give("small", 10), "small", 10) for _ in range(5000)]
    served = {"large": 0, "small": 0}
    for _turn, client, nbytes in sorted(waiting)[:2000]:
        served[client] += nbytes
    assert abs(served["large"] - served["small"]) <= 1000


def test_nobody_saves_up_turns():
    """Who comes late, or after a pause, begins now and not with what it might have had."""
    turns = Turns()
    for _ in range(100):
        turns.reach(turns.give("busy", 10), 10)
    late = [turns.give("late", 10) for _ in range(3)]
    busy = [turns.give("busy", 10) for _ in range(3)]
    assert late == [991, 1001, 1011]
    assert busy == [1000, 1010, 1020]


def test_what_is_not_computed_takes_no_turn():
    """Who took requests back stands where it stood without them, and no further ahead than now."""
    turns = Turns()
    turns.reach(turns.give("busy", 100), 0)
    for nbytes in (10, 1000, 0, 10):
        turns.give("a", nbytes)
    for nbytes in (1000, 0):
        turns.take_back("a", nbytes)
    assert turns.give("a", 10) == 20
    turns.reach(turns.give("busy", 10), 0)
    for nbytes in (10, 10, 10):
        turns.take_back("a", nbytes)
    assert turns.give("a", 10) == 100
    turns.take_back("never seen", 10)
    assert turns.give("never seen", 10) == 100


def test_newcomers_do_not_pass_for_ever():
    """A request that waits is next in the end, however many new clients come one after another."""
    turns = Turns()
    turns.give("old", 100)
    waits = turns.give("old", 100)
    passed = 0
    while (turn := turns.give(f"new {passed}", 100)) < waits:
        turns.reach(turn, 100)
        passed += 1
    assert passed <= 256


def test_clients_that_are_gone_are_forgotten():
    """What is known of clients grows with those that wait, not with all there ever were."""
    turns = Turns()
    for client in range(100_000):
        turns.reach(turns.give(client, 10), 10)
    assert len(turns._next) < 1000


@pytest.mark.parametrize("is_alike", [True, False], ids=["same kind", "other kinds"])
def test_a_greedy_client_starves_nobody(is_alike):
    """Whatever a client has waiting, another's request is in the next batch that leaves."""

    async def play():
        engine = HeldEngine()
        limits = BatchLimits(rows=1000, nbytes=request_of(100).nbytes, wait_us=0)
        batcher = Batcher(engine, limits)
        greedy = [
            asyncio.ensure_future(
                batcher.submit(request_of(100, CLASSES + (0 if is_alike else n)), None, "greedy")
            )
            for n in range(MANY)
        ]
        for _ in range(SLOTS):
            await engine.entered()
        modest = []
        for rows in (1, 2, 3):
            modest.append(asyncio.ensure_future(batcher.submit(request_of(rows), None, "modest")))
            await asyncio.sleep(0)
            engine.release()
            await engine.entered()
            assert engine.batches[-1][0] == rows, "another client's batch was before"
        for each in greedy:
            each.cancel()
        engine.release(MANY)
        await asyncio.gather(*greedy, *modest, return_exceptions=True)
        await batcher.close()

    asyncio.run(play())


@pytest.mark.parametrize("how", ["taken back", "late"])
def test_who_was_not_served_does_not_stand_behind_that(how):
    """Of a client, much is dropped before it is computed: its next request's turn is soon."""

    async def play():
        engine = HeldEngine()
        limits = BatchLimits(rows=1000, nbytes=request_of(100).nbytes, wait_us=0)
        batcher = Batcher(engine, limits)
        loop = asyncio.get_running_loop()

        def ask(client, rows, count=1, classes=CLASSES, deadline=None):
            calls = [
                batcher.submit(request_of(rows, classes), deadline, client) for _ in range(count)
            ]
            return [asyncio.ensure_future(call) for call in calls]

        others = ask("other", 100, SLOTS)
        for _ in range(SLOTS):
            await engine.entered()
        dropped = ask("unlucky", 90, MANY, CLASSES + 1, loop.time() + 3600)
        others += ask("other", 100, 5)
        await asyncio.sleep(0)
        if how == "late":
            clock = loop.time
            loop.time = lambda: clock() + 7200
            engine.release()
            await engine.entered()
        else:
            for each in dropped:
                each.cancel()
        await asyncio.wait(dropped)
        unlucky = ask("unlucky", 1)
        await asyncio.sleep(0)
        for _ in range(2):
            engine.release()
            await engine.entered()
        assert [1] in engine.batches, "the others were all before"
        engine.release(MANY)
        await asyncio.gather(*others, *unlucky)
        await batcher.close()

    asyncio.run(play())
