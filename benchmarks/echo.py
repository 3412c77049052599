"""A bare gRPC echo: what carrying the bytes alone costs, the ceiling of every call.

The server is a child process with generic handlers, no (de)serialisers, and the channel options
and allocator setting of losswire's own; it sends back each message that it gets. Run as a script
this module is that child: it serves on the address in its first argument, writes its target to
standard output, and ends when standard input does.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final, Self

import grpc

from losswire.bench.problem import WrongResult
from losswire_server import memory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    AioChannel = grpc.aio.Channel
    Blocks = tuple[bytes, ...]

UNARY: Final = "/echo.Echo/Unary"
STREAM: Final = "/echo.Echo/Stream"

_FRAME_BYTES: Final = 4 << 20

OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.http2.max_frame_size", _FRAME_BYTES),
    ("grpc.experimental.tcp_max_read_chunk_size", _FRAME_BYTES),
    ("grpc.http2.lookahead_bytes", 2 * _FRAME_BYTES),
)
"""Those of losswire's channels and server; a test holds them equal."""

_CLIENT_OPTIONS: Final = (*OPTIONS, ("grpc.use_local_subchannel_pool", 1))


class EchoServer:
    """The echo in a child process, on a free port unless an address is given."""

    def __init__(self, address: str = "127.0.0.1:0") -> None:
        self._process = subprocess.Popen(  # noqa: S603 -- our own module
            [sys.executable, __file__, address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        line = self._process.stdout.readline() if self._process.stdout else ""
        if not line:
            self.close()
            raise RuntimeError(f"the echo server could not listen on {address}")
        self.target = line.strip()

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    def close(self) -> None:
        """Ends the server."""
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def channel(target: str) -> grpc.Channel:
    """A synchronous channel with losswire's options, that shares its connection with no other."""
    return grpc.insecure_channel(target, _CLIENT_OPTIONS)


def aio_channel(target: str) -> grpc.aio.Channel:
    """The same for asyncio; to be called in a running loop."""
    return grpc.aio.insecure_channel(target, _CLIENT_OPTIONS)


def cut(content: Any, block_bytes: int) -> Blocks:
    """The bytes of an array as messages of a size; copied, so that sending them copies nothing."""
    view = memoryview(content).cast("B")
    return tuple(bytes(view[at : at + block_bytes]) for at in range(0, len(view), block_bytes))


def stream(connected: grpc.Channel, blocks: Blocks) -> Iterator[bytes]:
    """Sends blocks over one stream; yields them as they come back."""
    call: Any = connected.stream_stream(STREAM)
    replies: Iterator[bytes] = call(iter(blocks))
    return replies


def drain(replies: Iterable[bytes]) -> int:
    """Takes all replies; the number of their bytes."""
    return sum(len(reply) for reply in replies)


async def aio_stream(connected: grpc.aio.Channel, blocks: Blocks) -> Blocks:
    """Sends blocks over one stream, and reads them back while it sends."""
    call: Any = connected.stream_stream(STREAM)()

    async def send() -> None:
        for block in blocks:
            await call.write(block)
        await call.done_writing()

    sending = asyncio.create_task(send())
    replies = []
    while (reply := await call.read()) is not grpc.aio.EOF:
        replies.append(reply)
    await sending
    return tuple(replies)


def check(sent: Iterable[bytes], received: Iterable[bytes]) -> None:
    """Holds what came back to what was sent.

    Raises:
        WrongResult: it differs.
    """
    sent, received = b"".join(sent), b"".join(received)
    if sent != received:
        raise WrongResult(f"echo: {len(received)} bytes are not the {len(sent)} that were sent")


async def _unary(request: bytes, _context: Any) -> bytes:
    return request


async def _stream(requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


async def _serve(address: str) -> None:
    server = grpc.aio.server(options=[*OPTIONS, ("grpc.so_reuseport", 0)])
    methods = {
        "Unary": grpc.unary_unary_rpc_method_handler(_unary),
        "Stream": grpc.stream_stream_rpc_method_handler(_stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("echo.Echo", methods),))
    port = server.add_insecure_port(address)
    await server.start()
    host = address.rpartition(":")[0]
    target = address if address.startswith("unix:") else f"{host}:{port}"
    sys.stdout.write(target + "\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(grace=None)


if __name__ == "__main__":
    memory.keep_freed_memory()
    asyncio.run(_serve(sys.argv[1]))
