"""One ComputeStream call: blocks in, blocks out, a few of them in flight.

In: a call's messages after the first. Out: its replies. While one block is computed the next is
read and the one before it written; a client that is slow to send or to take keeps no more waiting
here than its blocks in flight.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from losswire_server import replies, validation
from losswire_server.window import Share

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Hashable

    from losswire_server.batcher import Batcher
    from losswire_server.requests import LossRequest, LossResult
    from losswire_server.streams import Stream
    from losswire_server.window import Window

BLOCKS_IN_FLIGHT: Final = 6
"""Of one stream: as many as compute at once, and one or two on either side of them."""


@dataclass(frozen=True, slots=True)
class _InFlight:
    """A block that the batcher has, or has done; its results are written into the reply."""

    request: LossRequest
    reply: bytes
    result: asyncio.Task[LossResult]
    give_back: Callable[[], None]


class StreamRun:
    """Reads, computes and writes the blocks of one stream at the same time.

    Args:
        stream: what was sent before the first row.
        batcher: computes the blocks.
        window: has room for them.
        deadline: the event loop's time after which they are of no use; None for never.
        client: whose they are; clients have shares of the window.
        turn: whose turn they take; None for the client's.
    """

    def __init__(
        self,
        stream: Stream,
        batcher: Batcher,
        window: Window,
        deadline: float | None,
        client: Hashable = None,
        turn: Hashable = None,
    ) -> None:
        self._turn = client if turn is None else turn
        self._stream = stream
        self._batcher = batcher
        self._share = Share(window, client)
        self._deadline = deadline
        self._room = asyncio.Semaphore(1 if stream.is_serial else BLOCKS_IN_FLIGHT)
        self._blocks: asyncio.Queue[_InFlight | None] = asyncio.Queue()

    async def replies(self, messages: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
        """The replies to the blocks in `messages`, in order, and the summary.

        Raises:
            RequestFailed: a block breaks a rule or comes too late, or rows are missing.
        """
        reading = asyncio.create_task(self._read(messages))
        block: _InFlight | None = None
        rows = 0
        try:
            while (block := await self._blocks.get()) is not None:
                result = await block.result
                self._stream.take(result)
                rows += len(block.request.logits)
                yield block.reply
                block.give_back()
                self._room.release()
            await reading
            yield replies.encode_summary(rows, *self._stream.summary())
        finally:
            await self._end(reading, block)

    async def _read(self, messages: AsyncIterator[bytes]) -> None:
        """Hands the blocks to the batcher as they arrive, as far as there is room."""
        try:
            await self._room.acquire()
            async for payload in messages:
                request = validation.parse_block(payload, self._stream)
                give_back = await self._share.take(request.nbytes)
                try:
                    reply, room = replies.draft_block(request)
                except MemoryError:
                    give_back()
                    raise
                request = replace(request, destinations=room)
                waiting = self._batcher.submit(request, self._deadline, self._turn)
                result = asyncio.create_task(waiting)
                self._blocks.put_nowait(_InFlight(request, reply, result, give_back))
                await self._room.acquire()
        finally:
            self._blocks.put_nowait(None)

    async def _end(self, reading: asyncio.Task[None], block: _InFlight | None) -> None:
        """Takes back what is still on its way."""
        self._stream.close()
        reading.cancel()
        try:
            await asyncio.gather(reading, return_exceptions=True)
        finally:  # also where the call is cancelled once more
            await self._take_back(block)

    async def _take_back(self, block: _InFlight | None) -> None:
        """Takes back the blocks that have been read."""
        left = [] if block is None else [block]
        while not self._blocks.empty():
            waiting = self._blocks.get_nowait()
            if waiting is not None:
                left.append(waiting)
        for each in left:
            each.result.cancel()
        try:
            await asyncio.gather(*(each.result for each in left), return_exceptions=True)
        finally:
            for each in left:
                each.give_back()
