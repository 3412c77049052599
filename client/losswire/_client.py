"""The synchronous client."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from losswire._base import take_all
from losswire._calls import Done, Unary
from losswire._methods import LossMethods
from losswire._results import LossResult, ServerInfo
from losswire_proto.dtypes import Array

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from losswire._calls import Plan, Step


class Client(LossMethods[LossResult, ServerInfo, Array]):
    __doc__ = (
        (LossMethods.__doc__ or "")
        + """
    Calls return when their result is there. Safe to use from several threads, and after a fork.

    Example:
        >>> with Client(target) as client:
        ...     client.server_info().backend
        'numpy'
    """
    )

    def close(self) -> None:
        """Closes the connection; calls in flight are cancelled."""
        self._let_go()
        self._connection.close()

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
            step = self._advance(plan, seconds, partial(self._perform, step, deadline))
        return step.result

    def _perform(self, step: Step, deadline: float) -> bytes | None:
        left = max(0.0, deadline - time.monotonic())
        if isinstance(step, Unary):
            metadata = self._connection.metadata
            return self._unary(step)(step.payload, timeout=left, metadata=metadata)
        take_all(self._stream(step, left), step.take)
        return None
