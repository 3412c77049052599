"""The asynchronous client: coroutines over the synchronous channel's callbacks.

Not over `grpc.aio`, whose client keeps some memory of every call that is cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Self

from losswire._methods import LossMethods
from losswire._results import LossResult, ServerInfo
from losswire_proto.dtypes import Array

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from losswire._requests import Rpc


class AsyncClient(
    LossMethods[
        Coroutine[Any, Any, LossResult], Coroutine[Any, Any, ServerInfo], Coroutine[Any, Any, Array]
    ]
):
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

    async def _call(self, make: Callable[[], Rpc[Any]], limit: float | None) -> Any:
        seconds, rpc = self._seconds(limit), make()
        method, metadata = self._method(rpc), self._connection.metadata
        reply = method.future(rpc.payload, timeout=seconds, metadata=metadata)
        await _done(reply)
        return self._result(rpc, seconds, reply.result)


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
