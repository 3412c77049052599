"""A stream's run: how far it reads ahead, and what it does with what comes too late."""

import asyncio

import numpy as np
import pytest

from losswire_proto.losses import LossCall, Softmax
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_server.batcher import Batcher
from losswire_server.errors import Expired, InvalidRequest
from losswire_server.groups import BatchLimits
from losswire_server.requests import LossRequest
from losswire_server.streaming import BLOCKS_IN_FLIGHT, StreamRun
from losswire_server.streams import Stream, StreamStart
from losswire_server.window import SHARES, Window
from served import LONG, GatedEngine

ROWS = 40


class Messages:
    """Blocks of one row each, and how many of them have been read."""

    def __init__(self, count=ROWS, classes=3):
        self.read = 0
        self._count = count
        self._row = bytes(4 * classes)

    def __aiter__(self):
        return self

    async def __anext__(self):
        if self.read == self._count:
            raise StopAsyncIteration
        block = pb.RowBlock(first_row=self.read, rows=1, logits=self._row)
        self.read += 1
        return pb.ComputeStreamRequest(block=block).SerializeToString()


def scenario(test):
    """Runs a coroutine function with a function that begins a stream over a gated engine."""

    def run():
        async def play():
            engine, window = GatedEngine(), Window(1 << 20, client_share=0.5)
            batcher = Batcher(engine, BatchLimits(1000, 1 << 30, 0))

            def begin(labels=None, deadline=None, client=None, classes=3):
                logits = np.broadcast_to(np.float32(0), (ROWS, classes))
                reading = "none" if labels is None else "distribution"
                call = LossCall(Softmax()) if labels is None else LossCall(grad_labels=True)
                start = StreamStart(LossRequest(call, logits, 1, labels, reading), False)
                return StreamRun(Stream(start), batcher, window, deadline, client)

            try:
                await test(begin, engine)
                assert window._free == 1 << 20
            finally:
                engine.gate.set()
                await batcher.close()
                engine.close()

        asyncio.run(asyncio.wait_for(play(), LONG))

    run.__doc__, run.__name__ = test.__doc__, test.__name__
    return run


async def taken(run, messages):
    """The rows of the replies, up to the summary."""
    replies = [pb.ComputeStreamResponse.FromString(each) async for each in run.replies(messages)]
    assert replies[-1].summary.rows == ROWS
    return [reply.block.first_row for reply in replies[:-1]]


@scenario
async def test_replies_come_in_order(begin, engine):
    """Each block is answered, in the order of the rows, and the summary last."""
    assert await taken(begin(), Messages()) == list(range(ROWS))


@pytest.mark.parametrize("labels", [None, np.ones((1, 3))], ids=["any order", "serial"])
def test_only_so_many_blocks_are_read_ahead(labels):
    """While nothing is computed, no more is read than may be in flight: one where order counts."""

    @scenario
    async def play(begin, engine):
        engine.gate.clear()
        messages = Messages()
        whole = asyncio.ensure_future(taken(begin(labels), messages))
        await asyncio.to_thread(engine.wait_for_batch)
        for _ in range(100):  # as many turns as anything here could want
            await asyncio.sleep(0)
        assert messages.read == (BLOCKS_IN_FLIGHT if labels is None else 1)
        engine.gate.set()
        assert await whole == list(range(ROWS))

    play()


@scenario
async def test_blocks_that_come_too_late_are_not_computed(begin, engine):
    """Past the deadline a stream ends with that, and the engine has seen nothing of it."""
    late = begin(deadline=asyncio.get_running_loop().time() - 1)
    with pytest.raises(Expired):
        await taken(late, Messages())
    assert engine.rows == []


@scenario
async def test_blocks_before_a_bad_one_are_answered(begin, engine):
    """A stream that ends too soon has the replies to what came, and then its error."""
    replies = begin().replies(Messages(3))
    for row in range(3):
        assert pb.ComputeStreamResponse.FromString(await anext(replies)).block.first_row == row
    with pytest.raises(InvalidRequest, match="expected 40 rows in all, received 3"):
        await anext(replies)


@scenario
async def test_a_run_that_is_left_takes_all_back(begin, engine):
    """At whatever point nobody wants its replies any more, nothing stays in flight."""
    for wanted in range(5):
        messages = Messages()
        replies = begin().replies(messages)
        for _ in range(wanted):
            await anext(replies)
        await replies.aclose()
        read = messages.read
        await asyncio.sleep(0)
        assert messages.read == read <= wanted + BLOCKS_IN_FLIGHT


@scenario
async def test_a_run_that_is_cancelled_twice_takes_all_back(begin, engine):
    """A second cancellation, while the first is being seen to, leaves no room taken."""
    engine.gate.clear()
    whole = asyncio.ensure_future(taken(begin(), Messages()))
    await asyncio.to_thread(engine.wait_for_batch)
    for _ in range(5):
        whole.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([whole])


@scenario
async def test_a_client_whose_streams_are_not_read_leaves_room_for_others(begin, engine):
    """With more such streams than a window has shares, another client's stream is answered."""
    classes = (1 << 20) // SHARES // 8  # so that one block has all of a stream's share
    unread = [begin(client="greedy", classes=classes) for _ in range(2 * SHARES)]
    replies = [run.replies(Messages(classes=classes)) for run in unread]
    # The first reply of a stream is taken, and no other: it keeps its room.
    firsts = {asyncio.ensure_future(anext(each)) for each in replies}
    while sum(each.done() for each in firsts) < SHARES // 2 - 1:
        waiting = [each for each in firsts if not each.done()]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    assert await taken(begin(client="modest"), Messages()) == list(range(ROWS))
    for each in firsts:
        each.cancel()
    await asyncio.gather(*firsts, return_exceptions=True)
    for each in replies:
        await each.aclose()
