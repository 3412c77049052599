"""The asynchronous client: coroutines over the synchronous channel's callbacks.

Not over `grpc.aio`, whose client keeps some memory of every call that is cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self, TypeVar

import grpc

from losswire import _errors
from losswire._methods import LossMethods
from losswire._results import LossResult, ServerInfo

if TYPE_CHECKING:
    from types import TracebackType

    from losswire._requests import Rpc

ResultT = TypeVar("ResultT")


class AsyncClient(LossMethods[Coroutine[Any, Any, LossResult], Coroutine[Any, Any, ServerInfo]]):
    __doc__ = (
        (LossMethods.__doc__ or "")
        + """
    The methods return coroutines. A task that is cancelled takes its call back.

    Example:
        >>> async def backend():
        ...     async with AsyncClient(target) as client:
        ...         return (await client.server_info()).backend
        >>> asyncio.run(backend())
        'numpy'
    """
    )

    async def close(self) -> None:
        """Closes the connection; calls in flight are cancelled."""
        self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def _loss(
        self, make: Callable[[], Rpc[LossResult]], timeout: float | None
    ) -> Coroutine[Any, Any, LossResult]:
        return self._call(make, timeout)

    def _info(
        self, make: Callable[[], Rpc[ServerInfo]], timeout: float | None
    ) -> Coroutine[Any, Any, ServerInfo]:
        return self._call(make, timeout)

    async def _call(self, make: Callable[[], Rpc[ResultT]], limit: float | None) -> ResultT:
        seconds, rpc = self._seconds(limit), make()
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes]
        method = self._connection.channel().unary_unary(rpc.path)
        reply = method.future(rpc.payload, timeout=seconds, metadata=self._connection.metadata)
        await _done(reply)
        try:
            return rpc.read(reply.result())
        except grpc.RpcError as error:
            raise _errors.from_rpc(error, self.target, seconds) from error
        except grpc.FutureCancelledError as error:
            raise _errors.ServerError(
                f"{self.target}: the client was closed", grpc.StatusCode.CANCELLED
            ) from error


async def _done(reply: Any) -> None:
    """Waits for a call's end; cancelling this cancels the call."""
    loop = asyncio.get_running_loop()
    end = loop.create_future()

    def wake() -> None:
        if not end.done():
            end.set_result(None)

    def on_end(_reply: Any) -> None:
        with suppress(RuntimeError):  # the loop may be closed by now; nobody waits then
            loop.call_soon_threadsafe(wake)

    reply.add_done_callback(on_end)
    try:
        await end
    except asyncio.CancelledError:
        reply.cancel()
        raise
