"""The synchronous client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, TypeVar

import grpc

from losswire import _errors
from losswire._methods import LossMethods
from losswire._results import LossResult, ServerInfo

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from losswire._requests import Rpc

ResultT = TypeVar("ResultT")


class Client(LossMethods[LossResult, ServerInfo]):
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

    def _loss(self, make: Callable[[], Rpc[LossResult]], timeout: float | None) -> LossResult:
        return self._call(make, timeout)

    def _info(self, make: Callable[[], Rpc[ServerInfo]], timeout: float | None) -> ServerInfo:
        return self._call(make, timeout)

    def _call(self, make: Callable[[], Rpc[ResultT]], timeout: float | None) -> ResultT:
        seconds, rpc = self._seconds(timeout), make()
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes]
        method = self._connection.channel().unary_unary(rpc.path)
        try:
            reply = method(rpc.payload, timeout=seconds, metadata=self._connection.metadata)
        except grpc.RpcError as error:
            raise _errors.from_rpc(error, self.target, seconds) from error
        return rpc.read(reply)
