"""The window of streams: blocks in flight, whose bytes wait for room instead of being refused.

In: the bytes that a block and its results will hold. Out: a way to give them back once the reply
has been taken; or `InvalidRequest` for what would never fit. Used from the event loop alone.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final
from weakref import WeakValueDictionary

from losswire_server.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

SHARES: Final = 8
"""Of a window: as many streams whose clients take no replies are needed to fill it."""


class Window:
    """Bytes of streamed blocks in flight: who asks for more than is free waits for it.

    First come, first served, so that a large block is not passed by small ones for ever.

    Args:
        limit: bytes there are in all.
        client_share: the part of them that one client may have.
        name: of the setting that says how many there are.
    """

    def __init__(self, limit: int, client_share: float = 1.0, name: str = "stream_bytes") -> None:
        self._name = name
        self._limit = limit
        self._free = limit
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._client_limit = max(1, int(limit * client_share))
        # A client's part is there for as long as one of its streams, or a block of theirs.
        self._clients: WeakValueDictionary[Hashable, Window] = WeakValueDictionary()

    @property
    def limit(self) -> int:
        """Bytes there are in all."""
        return self._limit

    @property
    def used(self) -> int:
        """Bytes of them that are taken."""
        return self._limit - self._free

    def client(self, key: Hashable) -> Window:
        """One client's part of this window, the same for all its streams."""
        part = self._clients.get(key)
        if part is None:
            part = self._clients[key] = Window(
                self._client_limit, name=f"client_share of {self._name}"
            )
        return part

    async def take(self, nbytes: int) -> Callable[[], None]:
        """Waits for room; calling what is returned gives it back, the first time.

        Raises:
            InvalidRequest: more than there ever is.
        """
        if nbytes > self._limit:
            raise InvalidRequest(
                f"block: expected rows and results of at most {self._limit} bytes ({self._name}),"
                f" received {nbytes} bytes"
            )
        if self._waiting or nbytes > self._free:
            turn = asyncio.get_running_loop().create_future()
            self._waiting.append((nbytes, turn))
            try:
                await turn
            except asyncio.CancelledError:
                # Room may have come just before.
                self._give(0 if turn.cancelled() else nbytes)
                raise
        else:
            self._free -= nbytes
        held = nbytes

        def give_back() -> None:
            nonlocal held
            self._give(held)
            held = 0

        return give_back

    def _give(self, nbytes: int) -> None:
        self._free += nbytes
        while self._waiting:
            wanted, turn = self._waiting[0]
            # One that has been cancelled may not know yet.
            if not turn.cancelled():
                if wanted > self._free:
                    return
                self._free -= wanted
                turn.set_result(None)
            self._waiting.popleft()


class Share:
    """One stream's part of a window: a client that takes no replies does not fill all of it.

    Neither does one with many such streams, which share the client's part. A block larger than the
    stream's has all of that, so that it is alone in flight; beyond the client's it is refused.

    Args:
        window: of all streams.
        client: whose stream it is.
    """

    def __init__(self, window: Window, client: Hashable = None) -> None:
        self._window = window
        self._client = window.client(client)
        self._most = window.limit // SHARES
        self._own = Window(self._most)

    async def take(self, nbytes: int) -> Callable[[], None]:
        """Waits for room in the share, the client's part and the window; as `Window.take`."""
        taken: list[Callable[[], None]] = []

        def give_back() -> None:
            for each in taken:
                each()

        try:
            taken.append(await self._own.take(min(nbytes, self._most)))
            taken.append(await self._client.take(nbytes))
            taken.append(await self._window.take(nbytes))
        except BaseException:
            give_back()
            raise
        return give_back
