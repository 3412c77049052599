"""Streams that have begun with a token: they end when it is taken out of the file.

In: handlers of streams, each with the digest of the token that its call came with. Out: the same
handlers, whose messages end with `Revoked` once the digest is not among those that count. What has
been read by then is answered; whoever takes no answers keeps those waiting, and gets no more.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Self

import grpc

from losswire_server.errors import Revoked

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection


class OpenStreams:
    """Streams that are open, by the digests of their tokens. Used from the event loop alone."""

    def __init__(self, digests: Collection[bytes]) -> None:
        self._digests = digests
        self._open: dict[_Messages, bytes] = {}

    def keep(self, digests: Collection[bytes]) -> None:
        """Ends the streams of all tokens but these."""
        self._digests = digests
        for messages, digest in list(self._open.items()):
            if digest not in digests:
                messages.revoke()

    def follow(self, handler: Any, digest: bytes) -> grpc.RpcMethodHandler[Any, Any] | None:
        """A handler whose streams are ended in time; one of single messages as it is."""
        if handler is None or not (handler.request_streaming and handler.response_streaming):
            unchanged: grpc.RpcMethodHandler[Any, Any] | None = handler
            return unchanged

        async def followed(
            messages: Any, context: grpc.aio.ServicerContext[Any, Any]
        ) -> AsyncIterator[Any]:
            watched = _Messages(messages)
            self._open[watched] = digest
            if digest not in self._digests:  # since the call was let in
                watched.revoke()
            try:
                async with aclosing(handler.stream_stream(watched, context)) as answers:
                    async for answer in answers:
                        yield answer
            except Revoked as error:  # of a service that is not ours
                await context.abort(error.status, str(error))
            finally:
                del self._open[watched]

        return grpc.stream_stream_rpc_method_handler(
            followed, handler.request_deserializer, handler.response_serializer
        )


class _Messages:
    """What a client sends, until its token is not good any more."""

    def __init__(self, messages: Any) -> None:
        self._messages = aiter(messages)
        self._reader: asyncio.Task[Any] | None = None
        self._is_revoked = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        if self._is_revoked:
            raise _revoked()
        self._reader = reader = asyncio.current_task()
        try:
            return await anext(self._messages)
        except asyncio.CancelledError:
            # Someone else may have cancelled it, too.
            if self._is_revoked and reader is not None and not reader.uncancel():
                raise _revoked() from None
            raise
        finally:
            self._reader = None

    def revoke(self) -> None:
        """Ends them, also for whoever waits for the next one."""
        if not self._is_revoked:
            self._is_revoked = True
            if self._reader is not None:
                self._reader.cancel()


def _revoked() -> Revoked:
    return Revoked("authorization: the token that this call began with is not good any more")
