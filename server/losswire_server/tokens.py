"""Bearer tokens: who may call.

In: a file with one token a line, and the metadata of a call. Out: the call goes on to its handler,
or it ends with UNAUTHENTICATED before its first message is read, in the same words whether the
token was missing or wrong. Streams that are open end likewise when their token is taken out
(`revocation`). Health checks need none. Tokens are kept and compared as digests, each
with every one, so that neither a length nor a common beginning can be measured from outside.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import grpc
from grpc_health.v1 import health

from losswire_server.errors import StartupError
from losswire_server.reloading import Reloaded, read_file
from losswire_server.revocation import OpenStreams

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from pathlib import Path

    Metadata: TypeAlias = "Sequence[tuple[str, str | bytes]]"
    Details: TypeAlias = grpc.HandlerCallDetails
    Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

SHORTEST: Final = 16
"""Characters of a token: fewer could be guessed, or be the beginning of one half written."""

_LOOK_SECONDS: Final = 1.0
"""Between two looks at the file where no call comes that would have it looked at."""

_OPEN: Final = f"/{health.SERVICE_NAME}/"

_SCHEME: Final = "bearer "


class TokenGate(grpc.aio.ServerInterceptor):
    """Lets calls pass that carry a token of the file; the file may be replaced at any time.

    Raises:
        StartupError: the file cannot be read, or holds something else than tokens.
    """

    def __init__(self, path: Path) -> None:
        self._digests = Reloaded("token_file", [path], lambda: read_digests(path))
        self._streams = OpenStreams(self._digests.value)

    async def follow_file(self) -> None:
        """Looks at the file again and again, for the sake of streams that are open."""
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            self._refresh()

    def _refresh(self) -> None:
        if self._digests.refresh():
            self._streams.keep(self._digests.value)

    async def intercept_service(
        self, continuation: Callable[[Details], Awaitable[Handler | None]], details: Details
    ) -> Handler | None:
        """The method's handler, or one that refuses."""
        if details.method.startswith(_OPEN):
            return await continuation(details)
        self._refresh()
        token = presented(details.invocation_metadata)
        if is_known(token, self._digests.value):
            return self._streams.follow(await continuation(details), _digest(token))
        # Of streams, whatever the method is: so gRPC reads no message before it refuses.
        return grpc.stream_stream_rpc_method_handler(_refuse)


def read_digests(path: Path) -> tuple[bytes, ...]:
    """The digests of a file's tokens.

    Raises:
        StartupError: names the file and the line, never what stands there.
    """
    lines = read_file("token_file", path, "a file with one token a line").splitlines()
    tokens = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not tokens:
        raise StartupError(f"token_file: {path} holds no token; write one a line")
    for number, token in tokens:
        if len(token) < SHORTEST or not all(0x21 <= character <= 0x7E for character in token):
            raise StartupError(
                f"token_file: line {number} of {path}: expected a token of at least {SHORTEST}"
                " visible ASCII characters, such as `openssl rand -hex 32` prints"
            )
    return tuple(_digest(token) for _, token in tokens)


def presented(metadata: Metadata | None) -> bytes:
    """The token that a call carries; empty, which is nobody's, for none and for several."""
    values = [value for key, value in metadata or () if key == "authorization"]
    if len(values) != 1 or not isinstance(values[0], str):
        return b""
    value = values[0]
    if value[: len(_SCHEME)].lower() != _SCHEME:
        return b""
    return value[len(_SCHEME) :].strip().encode()


def is_known(token: bytes, digests: Sequence[bytes]) -> bool:
    """Whether a token is one of those with these digests; it takes as long for each."""
    digest = _digest(token)
    found = False
    for known in digests:
        found |= hmac.compare_digest(known, digest)
    return found


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


async def _refuse(
    _messages: Any, context: grpc.aio.ServicerContext[bytes, bytes]
) -> AsyncIterator[bytes]:
    await context.abort(
        grpc.StatusCode.UNAUTHENTICATED,
        "authorization: expected `Bearer` and a token that this server knows",
    )
    yield b""  # never: this makes it a handler of streams
