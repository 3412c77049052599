"""The synchronous client."""

from __future__ import annotations

import time
from _thread import allocate_lock
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, TypeVar

from losswire._base import check_time, take_all
from losswire._calls import Done, Joined, Pause, Unary
from losswire._methods import LossMethods
from losswire._results import LossResult, ServerInfo
from losswire._waiters import TOO_LATE, wake_next
from losswire_proto.dtypes import Array

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from types import TracebackType

    from losswire._calls import Plan, Step
    from losswire._waiters import Outcome, Waiter


ResultT = TypeVar("ResultT")


class Client(LossMethods[LossResult, ServerInfo, Array]):
    __doc__ = (
        (LossMethods.__doc__ or "")
        + """
    Calls return when their result is there. Safe to use from several threads, and after a fork.
    Pickled, it is how it was made, token included: workers that are spawned have one of their own.

    Example:
        >>> with Client(target) as client:
        ...     client.server_info().backend
        'numpy'
    """
    )

    def submit(
        self, method: str | Callable[..., ResultT], /, *arguments: Any, **keywords: Any
    ) -> Future[ResultT]:
        """Makes a call while the caller does other work.

        So the loss of one micro-batch is on its way while the next one's forward pass runs. What
        the tensors hold may change only when the result is there. A call begins at once unless 16
        others are not done; then this waits for one of them.

        Args:
            method: one of this client's, or its name.
            *arguments: its arguments.
            **keywords: its keywords.

        Returns:
            A future of what the method returns, or raises; cancelling it takes back a call that
            has not begun.

        Raises:
            InvalidInput: there is no such method.

        Example:
            >>> future = client.submit("softmax_cross_entropy", [[2.0, 1.0, 0.5]], [0])
            >>> future.result().loss.round(4).tolist()
            [0.4644]
        """
        call = self._method(method) if isinstance(method, str) else method
        self._connection.channel()  # a closed client says so
        return self._submitted.submit(partial(call, *arguments, **keywords))

    def close(self) -> None:
        """Closes the connection; calls in flight are cancelled."""
        self._submitted.close()
        self._many.close()
        self._let_go()
        self._disconnect()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _call(self, make: Callable[[], Plan[Any]], limit: float | None) -> Any:
        self._connection.channel()  # a closed client says so before anything else
        seconds, plan = self._seconds(limit), make()
        deadline = time.monotonic() + seconds
        step = self._advance(plan, seconds)
        while not isinstance(step, Done):
            step = self._advance(plan, seconds, partial(self._perform, step, deadline, seconds))
        return step.result

    def _perform(self, step: Step, deadline: float, seconds: float) -> bytes | None:
        left = max(0.0, deadline - time.monotonic())
        if isinstance(step, Unary):
            metadata = self._connection.metadata
            return self._unary(step)(step.payload, timeout=left, metadata=metadata)
        if isinstance(step, Joined):
            return self._joined_reply(self._join(step.payload, left), seconds)
        if isinstance(step, Pause):
            check_time(step, left)
            time.sleep(step.seconds)
            return None
        take_all(self._stream(step, left), step.take)
        return None

    def _join(self, payload: bytes, left: float) -> Outcome:
        waiter = _Waiter()
        ticket = self._many.send(payload, left, waiter)
        self._many.flush()
        is_told = False
        try:
            is_told = waiter.wait(left)
        finally:
            if not is_told:  # too late, or Ctrl-C
                ticket.cancel()
            wake_next(waiter.queue)
        return waiter.outcome


_LONGEST_WAIT: Final = 0.2
"""Seconds after which a waiting thread looks whether Ctrl-C was pressed."""


class _Waiter:
    """A thread that waits for its answer."""

    __slots__ = ("is_told", "outcome", "queue")
    loop: ClassVar[None] = None

    def __init__(self) -> None:
        self.is_told = allocate_lock()
        self.is_told.acquire()
        self.outcome: Outcome = TOO_LATE
        self.queue: deque[Waiter] = _NOBODY

    def wait(self, seconds: float) -> bool:
        """Whether the answer came within `seconds`.

        A signal that comes on the way into a wait does not end it; the next look at it does.
        """
        deadline = time.monotonic() + seconds
        while not self.is_told.acquire(timeout=min(seconds, _LONGEST_WAIT)):
            seconds = deadline - time.monotonic()
            if seconds <= 0:
                return False
        return True

    def take(self, outcome: Outcome, queue: deque[Waiter]) -> None:
        """Takes the answer."""
        self.outcome, self.queue = outcome, queue

    def wake(self) -> None:
        """Lets the thread go on."""
        self.is_told.release()


_NOBODY: Final[deque[Any]] = deque()
