"""Streams end when their token is taken out, and whoever cancels one is not taken for that."""

import asyncio

import grpc
import pytest

from losswire_server.errors import Revoked
from losswire_server.revocation import OpenStreams

GOOD, GONE = b"digest of a token", b"digest of another"


class Context:
    """A call, of which only the end is looked at."""

    status = None

    async def abort(self, status, _details):
        self.status = status


async def echo(messages, _context):
    async for message in messages:
        yield message


class Stream:
    """A stream of the echo, whose messages a test sends."""

    def __init__(self, streams, digest, handler=echo):
        self._sent = asyncio.Queue()
        self.context = Context()
        method = streams.follow(grpc.stream_stream_rpc_method_handler(handler), digest)
        self._answers = method.stream_stream(self._messages(), self.context)

    async def _messages(self):
        while True:
            yield await self._sent.get()

    async def echoed(self, message):
        """The answer to a message."""
        self._sent.put_nowait(message)
        return await anext(self._answers)

    async def waiting(self):
        """A task that waits for the answer to the next message."""
        task = asyncio.ensure_future(anext(self._answers, "the end"))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not task.done()
        return task


def test_streams_of_tokens_that_are_gone_end():
    """Though they wait for a message, and at once; others go on."""

    async def play():
        streams = OpenStreams([GOOD, GONE])
        gone, good = Stream(streams, GONE), Stream(streams, GOOD)
        assert await gone.echoed(1) == await good.echoed(1) == 1
        task = await gone.waiting()
        streams.keep([GOOD])
        assert await task == "the end"
        assert gone.context.status is grpc.StatusCode.UNAUTHENTICATED
        assert await good.echoed(2) == 2
        assert list(streams._open.values()) == [GOOD]

    asyncio.run(play())


def test_what_was_read_is_answered_first():
    """A stream that is not reading just then learns of it when it reads the next message."""

    async def play():
        streams = OpenStreams([GONE])
        stream = Stream(streams, GONE)
        assert await stream.echoed(1) == 1  # the handler is at its answer
        streams.keep([])
        streams.keep([])
        assert await asyncio.ensure_future(anext(stream._answers, "the end")) == "the end"
        assert stream.context.status is grpc.StatusCode.UNAUTHENTICATED

    asyncio.run(play())


def test_a_token_that_goes_before_its_stream_begins():
    """Between being let in and being served a file may change."""

    async def play():
        streams = OpenStreams([GONE])
        stream = Stream(streams, GONE)
        streams.keep([GOOD])
        assert await anext(stream._answers, "the end") == "the end"
        assert stream.context.status is grpc.StatusCode.UNAUTHENTICATED

    asyncio.run(play())


def test_a_handler_sees_the_error_itself():
    """So that a service that has its own way to end a call ends it that way."""
    seen = []

    async def own(messages, context):
        try:
            async for message in echo(messages, context):
                yield message
        except Revoked as error:
            seen.append(error.status)

    async def play():
        streams = OpenStreams([GONE])
        stream = Stream(streams, GONE, own)
        task = await stream.waiting()
        streams.keep([])
        assert await task == "the end"
        assert seen == [grpc.StatusCode.UNAUTHENTICATED]
        assert stream.context.status is None

    asyncio.run(play())


def test_a_stream_that_is_cancelled_is_cancelled():
    """Also in the moment in which its token goes, so that whoever cancels it is obeyed."""

    async def play(*, is_revoked):
        streams = OpenStreams([GONE])
        stream = Stream(streams, GONE)
        task = await stream.waiting()
        if is_revoked:
            streams.keep([])
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert stream.context.status is None
        assert not streams._open

    asyncio.run(play(is_revoked=False))
    asyncio.run(play(is_revoked=True))


def test_calls_of_one_message_are_left_alone():
    """What is answered at once needs no end; what does not exist stays so."""
    handler = grpc.unary_unary_rpc_method_handler(echo)
    streams = OpenStreams([GOOD])
    assert streams.follow(handler, GOOD) is handler
    assert streams.follow(None, GOOD) is None
