"""The synchronous client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from losswire._methods import LossMethods
from losswire._results import LossResult, ServerInfo
from losswire_proto.dtypes import Array

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from losswire._requests import Rpc


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

    def _call(self, make: Callable[[], Rpc[Any]], limit: float | None) -> Any:
        seconds, rpc = self._seconds(limit), make()
        method, metadata = self._method(rpc), self._connection.metadata
        return self._result(
            rpc, seconds, lambda: method(rpc.payload, timeout=seconds, metadata=metadata)
        )
