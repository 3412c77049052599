"""The asynchronous client: coroutines over the synchronous channel's callbacks.

Not over `grpc.aio`, whose client keeps some memory of every call that is cancelled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from threading import Thread
from typing import TYPE_CHECKING, Any, Self

from losswire._base import StreamCall, take_all
from losswire._calls import Done, Unary
from losswire._methods import LossMethods
from losswire._results import LossResult, ServerInfo
from losswire_proto.dtypes import Array

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from losswire._calls import Plan, Step


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
        await asyncio.to_thread(self._let_go)
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

    async def _call(self, make: Callable[[], Plan[Any]], limit: float | None) -> Any:
        self._connection.channel()  # a closed client says so before anything else
        seconds, plan = self._seconds(limit), make()
        deadline = time.monotonic() + seconds
        step = self._advance(plan, seconds)
        while not isinstance(step, Done):
            with self._errors_as_ours(seconds):
                reply = self._begin(step, max(0.0, deadline - time.monotonic()))
            await _done(reply)
            step = self._advance(plan, seconds, reply.result)
        return step.result

    def _begin(self, step: Step, seconds: float) -> Any:
        """The step as a future."""
        if isinstance(step, Unary):
            metadata = self._connection.metadata
            return self._unary(step).future(step.payload, timeout=seconds, metadata=metadata)
        return _Taken(self._stream(step, seconds), step.take)


class _Taken(Future[None]):
    """A stream taken to its end on a thread of its own; cancelling this cancels the call."""

    def __init__(self, call: StreamCall, take: Callable[[bytes], None]) -> None:
        super().__init__()
        self._call, self._take = call, take
        Thread(target=self._run, name="losswire-stream", daemon=True).start()

    def cancel(self) -> bool:
        """Cancels the call; the thread ends with it."""
        return bool(self._call.cancel())

    def _run(self) -> None:
        try:
            take_all(self._call, self._take)
        except BaseException as error:  # noqa: BLE001 -- it is the awaiting task's
            self.set_exception(error)
        else:
            self.set_result(None)


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
