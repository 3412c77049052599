"""The window of streams, and the parts of it that a client and a stream may have."""

import asyncio
import gc
from random import Random

import pytest

from losswire_server.errors import InvalidRequest
from losswire_server.window import SHARES, Share, Window


async def asked(window, *sizes):
    """Tasks that have asked for room, in this order."""
    tasks = [asyncio.ensure_future(window.take(nbytes)) for nbytes in sizes]
    await asyncio.sleep(0)
    return tasks


def has_room_for(window, nbytes):
    """Whether so much is free, to the byte."""
    return window._free == nbytes and not window._waiting


def test_blocks_wait_for_room():
    """What does not fit now is let in when room is given back."""

    async def play():
        window = Window(100)
        give_back = await window.take(60)
        (waiting,) = await asked(window, 50)
        assert not waiting.done()
        give_back()
        (await waiting)()
        assert has_room_for(window, 100)

    asyncio.run(play())


def test_small_blocks_do_not_pass_a_large_one():
    """First come, first served, though the second would fit before the first does."""

    async def play():
        window = Window(100)
        give_back = await window.take(60)
        large, small = await asked(window, 90, 10)
        assert not small.done()
        give_back()
        give_back_large = await large
        (await small)()
        give_back_large()
        assert has_room_for(window, 100)

    asyncio.run(play())


def test_giving_back_twice_gives_back_once():
    """Whoever cleans up need not know whether it has been done."""

    async def play():
        window = Window(100)
        give_back = await window.take(60)
        give_back()
        give_back()
        assert has_room_for(window, 100)

    asyncio.run(play())


def test_a_block_larger_than_the_window_is_refused():
    """It would wait for ever, and all others behind it."""

    async def play():
        window = Window(100)
        with pytest.raises(InvalidRequest, match=r"at most 100 bytes .* received 101 bytes"):
            await window.take(101)
        assert has_room_for(window, 100)

    asyncio.run(play())


def test_who_is_cancelled_while_waiting_takes_nothing():
    """A block that is given up lets those behind it in."""

    async def play():
        window = Window(100)
        give_back = await window.take(60)
        gone, small = await asked(window, 90, 10)
        gone.cancel()
        (await small)()
        assert gone.cancelled()
        give_back()
        assert has_room_for(window, 100)

    asyncio.run(play())


def test_who_is_cancelled_with_room_already_given_gives_it_back():
    """Room that comes just before the cancellation is not lost."""

    async def play():
        window = Window(100)
        give_back = await window.take(60)
        (gone,) = await asked(window, 90)
        give_back()
        gone.cancel()
        await asyncio.wait([gone])
        assert gone.cancelled()
        assert has_room_for(window, 100)

    asyncio.run(play())


def test_room_that_comes_just_after_a_cancellation_goes_to_the_next():
    """A waiting block that has been cancelled, but does not know yet, is passed over."""

    async def play():
        window = Window(100)
        give_back = await window.take(60)
        gone, small = await asked(window, 90, 10)
        gone.cancel()
        give_back()
        (await small)()
        await asyncio.wait([gone])
        assert gone.cancelled()
        assert has_room_for(window, 100)

    asyncio.run(play())


def test_any_order_of_asking_cancelling_and_giving_back_ends_with_all_free():
    """Whatever happens to the blocks, never is more taken than there is, and none is lost."""

    async def play(random):
        window, tasks, given = Window(100), [], []
        for _ in range(60):
            match random.choice(["ask", "ask", "cancel", "give", "turn"]):
                case "ask":
                    tasks.append(asyncio.ensure_future(window.take(random.randint(0, 100))))
                case "cancel" if tasks:
                    random.choice(tasks).cancel()
                case "give":
                    done = [each for each in tasks if each.done() and not each.cancelled()]
                    given += [each for each in done if each not in given]
                    if given:
                        random.choice(given).result()()
                case _:
                    await asyncio.sleep(0)
            assert 0 <= window._free <= 100
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for each in tasks:
            if not each.cancelled():
                each.result()()
        assert has_room_for(window, 100)

    for seed in range(300):
        asyncio.run(play(Random(seed)))


def test_a_stream_has_a_share_of_the_window():
    """Blocks beyond a stream's share wait for its own, and leave room for other streams."""

    async def play():
        window = Window(80 * SHARES)
        first, second = Share(window), Share(window)
        give_back = [await first.take(40), await first.take(40)]
        waiting = asyncio.ensure_future(first.take(40))
        give_back.append(await second.take(40))
        await asyncio.sleep(0)
        assert not waiting.done()
        give_back.pop(0)()
        give_back.append(await waiting)
        for each in give_back * 2:
            each()
        assert has_room_for(window, 80 * SHARES)

    asyncio.run(play())


def test_a_block_larger_than_a_share_is_alone():
    """It may take the whole window, and the stream's next one waits for its end."""

    async def play():
        window = Window(80 * SHARES)
        share = Share(window)
        give_back = await share.take(80 * SHARES)
        waiting = asyncio.ensure_future(share.take(1))
        await asyncio.sleep(0)
        assert not waiting.done()
        give_back()
        (await waiting)()
        assert has_room_for(window, 80 * SHARES)
        with pytest.raises(InvalidRequest, match="stream_bytes"):
            await share.take(80 * SHARES + 1)
        (await share.take(1))()

    asyncio.run(play())


def test_one_client_has_a_share_of_the_window():
    """However many streams a client has, their blocks leave room for those of others."""

    async def play():
        window = Window(10 * SHARES, client_share=0.5)
        greedy = [Share(window, "greedy") for _ in range(SHARES)]
        half = SHARES // 2
        give_back = [await share.take(10) for share in greedy[:half]]
        waiting = [asyncio.ensure_future(share.take(10)) for share in greedy[half:]]
        give_back.append(await asyncio.wait_for(Share(window, "modest").take(10), 30))
        assert not any(task.done() for task in waiting)
        for each in give_back:
            each()
        for task in waiting:
            (await task)()
        assert has_room_for(window, 10 * SHARES)

    asyncio.run(play())


def test_a_clients_part_goes_with_its_streams():
    """Clients that have gone leave nothing behind."""

    async def play():
        window = Window(100, client_share=0.5)
        share = Share(window, "client")
        give_back = await share.take(50)
        del share
        gc.collect()
        assert list(window._clients) == ["client"]
        give_back()
        del give_back
        gc.collect()
        assert not window._clients

    asyncio.run(play())


def test_a_block_larger_than_the_clients_share_is_refused():
    """Taken by a client that takes no replies it would hold up everybody."""

    async def play():
        window = Window(100, client_share=0.5)
        share = Share(window, "client")
        with pytest.raises(InvalidRequest, match=r"50 bytes \(client_share of stream_bytes\)"):
            await share.take(51)
        (await share.take(50))()
        assert has_room_for(window, 100)

    asyncio.run(play())


def test_a_share_that_is_left_takes_nothing_of_the_window():
    """Cancelled while it waits for the window, a block gives its part of the share back."""

    async def play():
        window = Window(80 * SHARES)
        give_back = await window.take(80 * SHARES)
        share = Share(window)
        waiting = asyncio.ensure_future(share.take(80))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        give_back()
        (await share.take(80))()
        assert has_room_for(window, 80 * SHARES)

    asyncio.run(play())
