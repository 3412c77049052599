"""A proxy between clients and a server that does to their bytes what networks do.

In: where the server is, and a deck of faults or someone who watches. Out: an address for clients,
and how many faults of each kind were injected. TCP to TCP, or Unix socket to Unix socket.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.loop import Loop
    from benchmarks.soak.faults import Deck, Kind

Direction: TypeAlias = Literal["up", "down"]

Watch: TypeAlias = "Callable[[Direction, int], None]"
"""Called before bytes go on: which way, and how many will then have gone on this connection."""

CHUNK_BYTES: Final = 256 << 10

_LONGEST_DELAY: Final = 0.05
_LONGEST_SILENCE: Final = 0.5

_SLOW_CHUNKS: Final = 16
_SLOW_BYTES: Final = 8 << 10
_SLOW_PAUSE: Final = 0.01

_RESET_AT_CLOSE: Final = struct.pack("ii", 1, 0)  # SO_LINGER: on, for no time


class Proxy:
    """Forwards connections until it is closed.

    Args:
        loop: what it runs on.
        upstream: the server's target.
        deck: of faults; None for none.
        watch: who is told of bytes; None for nobody.
        path: of a Unix socket to listen on; None for a free TCP port.
    """

    def __init__(
        self,
        loop: Loop,
        upstream: str,
        deck: Deck | None = None,
        watch: Watch | None = None,
        path: Path | None = None,
    ) -> None:
        self.upstream = upstream
        """Where new connections go; may be changed at any time."""
        self.injected: Counter[Kind] = Counter()
        self._loop = loop
        self._deck = deck
        self._watch = watch
        self._connections: set[asyncio.Task[None]] = set()
        self._server = loop.run(self._listen(path))
        self.target = f"unix:{path}" if path else f"127.0.0.1:{self._port()}"
        """Where clients connect to."""

    def close(self) -> None:
        """Listens no more and closes all connections."""
        self._loop.run(self._close())

    def _port(self) -> int:
        return int(self._server.sockets[0].getsockname()[1])

    async def _listen(self, path: Path | None) -> asyncio.Server:
        if path is not None:
            return await asyncio.start_unix_server(self._serve, path, limit=CHUNK_BYTES)
        return await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=CHUNK_BYTES)

    async def _close(self) -> None:
        self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self.upstream.startswith("unix:"):
            path = self.upstream.removeprefix("unix:")
            return await asyncio.open_unix_connection(path, limit=CHUNK_BYTES)
        host, _, port = self.upstream.rpartition(":")
        return await asyncio.open_connection(host, int(port), limit=CHUNK_BYTES)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 -- for the type checker
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        writers = [writer]
        # The server is not there, a fault, either side has gone, or this proxy is closed.
        with suppress(OSError, _Cut, asyncio.CancelledError):
            try:
                server_reader, server_writer = await self._open()
                writers.append(server_writer)
                async with asyncio.TaskGroup() as pumps:
                    pumps.create_task(self._pump("up", reader, server_writer, writers))
                    pumps.create_task(self._pump("down", server_reader, writer, writers))
            except* (OSError, _Cut):
                pass
            finally:
                for each in writers:
                    if not each.transport.is_closing():
                        each.transport.abort()

    async def _pump(
        self,
        direction: Direction,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        both: list[asyncio.StreamWriter],
    ) -> None:
        gone = slow = 0
        while chunk := await reader.read(_SLOW_BYTES if slow else CHUNK_BYTES):
            gone += len(chunk)
            if self._watch is not None:
                self._watch(direction, gone)
            if slow:
                slow -= 1
                await asyncio.sleep(_SLOW_PAUSE)
            kind = self._deck.next() if self._deck is not None else None
            if kind is not None:
                self.injected[kind] += 1
                chunk = await self._hurt(kind, chunk, reader, writer, both)
                slow = _SLOW_CHUNKS if kind == "stall" else slow
            writer.write(chunk)
            await writer.drain()
        raise _Cut

    async def _hurt(
        self,
        kind: Kind,
        chunk: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        both: list[asyncio.StreamWriter],
    ) -> bytes:
        """Does it; what is to go on instead of the chunk.

        Raises:
            _Cut: the connection is over.
        """
        assert self._deck is not None  # noqa: S101 -- for the type checker
        random = self._deck.random
        match kind:
            case "delay":
                await asyncio.sleep(random.uniform(0, _LONGEST_DELAY))
            case "duplicate":
                start = random.randrange(len(chunk))
                return chunk + chunk[start:]
            case "truncate":
                writer.write(chunk[: random.randrange(len(chunk))])
                await writer.drain()
                writer.close()
                raise _Cut
            case "drop":
                with suppress(TimeoutError):
                    async with asyncio.timeout(random.uniform(0, _LONGEST_SILENCE)):
                        while await reader.read(CHUNK_BYTES):
                            pass
                _reset_at_close(both)
                raise _Cut
            case "reset":
                _reset_at_close(both)
                raise _Cut
        return chunk


class _Cut(Exception):  # noqa: N818 -- no error of the proxy's
    """A connection is over."""


def _reset_at_close(writers: list[asyncio.StreamWriter]) -> None:
    for writer in writers:
        connected = writer.get_extra_info("socket")
        if connected.family != socket.AF_UNIX:  # which knows no such thing
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
