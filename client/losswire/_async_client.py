"""The asynchronous client: coroutines over the synchronous channel's callbacks.

Not over `grpc.aio`, whose client keeps some memory of every call that is cancelled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any, Self, TypeVar

from losswire._base import StreamCall, check_time, take_all
from losswire._calls import Done, Joined, Pause, Unary
from losswire._deadlines import Deadlines
from losswire._methods import LossMethods
from losswire._results import LossResult, ServerInfo
from losswire._waiters import TOO_LATE
from losswire_proto.dtypes import Array

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable
    from types import TracebackType

    from losswire._calls import Plan, Streamed
    from losswire._waiters import Outcome, Waiter


ResultT = TypeVar("ResultT")


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

    # Of the event loop that was used last.
    _deadlines: Deadlines | None = None
    _is_flush_due = False

    def submit(
        self, method: str | Callable[..., ResultT], /, *arguments: Any, **keywords: Any
    ) -> asyncio.Task[Any]:
        """Makes a call while the caller does other work: a task of the running event loop.

        Args:
            method: one of this client's, or its name.
            *arguments: its arguments.
            **keywords: its keywords.

        Returns:
            A task, whose cancelling takes the call back.

        Raises:
            InvalidInput: there is no such method.
            RuntimeError: no event loop is running.

        Example:
            >>> async def loss():
            ...     async with AsyncClient(target) as client:
            ...         task = client.submit("softmax_cross_entropy", [[2.0, 1.0, 0.5]], [0])
            ...         return (await task).loss.round(4).tolist()
            >>> asyncio.run(loss())
            [0.4644]
        """
        loop = asyncio.get_running_loop()
        call: Callable[..., Any] = self._method(method) if isinstance(method, str) else method
        return loop.create_task(call(*arguments, **keywords))

    async def close(self) -> None:
        """Closes the connection; calls in flight are cancelled."""
        self._many.close()
        await asyncio.to_thread(self._let_go)
        self._disconnect()

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
            left = max(0.0, deadline - time.monotonic())
            if isinstance(step, Joined):
                outcome = await self._join(step.payload, left)
                step = self._advance(plan, seconds, partial(self._joined_reply, outcome, seconds))
                continue
            if isinstance(step, Pause):
                if step.seconds < left:
                    await asyncio.sleep(step.seconds)
                step = self._advance(plan, seconds, partial(check_time, step, left))
                continue
            with self._errors_as_ours(seconds):
                reply = self._begin(step, left)
            await _done(reply)
            step = self._advance(plan, seconds, reply.result)
        return step.result

    async def _join(self, payload: bytes, left: float) -> Outcome:
        deadlines = self._deadlines
        if deadlines is None or deadlines.loop is not asyncio.get_running_loop():
            deadlines = self._deadlines = Deadlines(asyncio.get_running_loop())
            self._is_flush_due = False  # one that is due on another loop may never come
        waiter = _Waiter(deadlines.loop)
        ticket = self._many.send(payload, left, waiter)
        if not self._is_flush_due:
            # Others that are about to send get to do so first, and share the message.
            self._is_flush_due = True
            waiter.loop.call_soon(self._flush)
        take_back = deadlines.add(waiter, left)
        try:
            outcome = await waiter.outcome
        except asyncio.CancelledError:
            ticket.cancel()
            raise
        finally:
            take_back()
        if outcome is TOO_LATE:
            ticket.cancel()
        return outcome

    def _flush(self) -> None:
        self._is_flush_due = False
        self._many.flush()

    def _begin(self, step: Unary | Streamed, seconds: float) -> Any:
        """The step as a future."""
        if isinstance(step, Unary):
            metadata = self._connection.metadata
            return self._unary(step).future(step.payload, timeout=seconds, metadata=metadata)
        return _Taken(self._stream(step, seconds), step.take)


class _Waiter:
    """A task that waits for its answer."""

    __slots__ = ("loop", "outcome")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.outcome: asyncio.Future[Outcome] = loop.create_future()

    def take(self, outcome: Outcome, _queue: deque[Waiter]) -> None:
        """Takes the answer, on the event loop."""
        if not self.outcome.done():
            self.outcome.set_result(outcome)

    def wake(self) -> None:
        """Nothing to do: taking the answer wakes the task."""

    def give_up(self) -> None:
        """Waits no longer."""
        if not self.outcome.done():
            self.outcome.set_result(TOO_LATE)


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
