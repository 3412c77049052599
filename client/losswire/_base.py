"""What both clients are: a target, a timeout, a connection, and one way to make a call.

A method turns its arguments into a function that makes the `Rpc` and hands it to `_call`, which a
synchronous client answers with a result and an asynchronous one with a coroutine.
"""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar

import grpc
from google.protobuf.message import DecodeError

from losswire._advice import Advice
from losswire._arrays import plain
from losswire._channel import Connection, Tls
from losswire._errors import InvalidInput, LosswireError, ServerError, from_rpc
from losswire_proto.rules import InvalidField

if TYPE_CHECKING:
    from collections.abc import Callable

    from losswire._requests import Rpc

Transport: TypeAlias = Literal["auto", "inline", "stream", "shared"]

ResultT = TypeVar("ResultT")

DEFAULT_TARGET: Final = "localhost:50051"
DEFAULT_TIMEOUT: Final = 30.0

_LONGEST_TIMEOUT: Final = 10.0**8
"""Three years, in seconds; gRPC takes much longer ones for past."""


class BaseClient:
    """Constructor and plumbing of a client; the losses come with `LossMethods`."""

    def __init__(
        self,
        target: str | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        transport: Transport = "auto",
        token: str | None = None,
        tls: Tls | None = None,
    ) -> None:
        if target is not None and not isinstance(target, str):
            raise InvalidInput(f"target: expected an address as text, received {target!r}")
        if transport not in {"auto", "inline", "stream", "shared"}:
            raise InvalidInput(
                "transport: expected one of 'auto', 'inline', 'stream', 'shared',"
                f" received {transport!r}"
            )
        if transport in {"stream", "shared"}:
            raise InvalidInput(
                f"transport: expected 'auto' or 'inline', received {transport!r},"
                " which this version does not have yet"
            )
        self._timeout = _checked_timeout(timeout)
        target = target or os.environ.get("LOSSWIRE_TARGET") or DEFAULT_TARGET
        self._connection = Connection(target, token, tls)
        self._advice = Advice()

    @property
    def target(self) -> str:
        """The server's address."""
        return self._connection.target

    @abstractmethod
    def _call(self, make: Callable[[], Rpc[Any]], limit: float | None) -> Any:
        """Makes the call and returns its result, now or when awaited."""

    def _seconds(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else _checked_timeout(timeout)

    def _method(self, rpc: Rpc[Any]) -> grpc.UnaryUnaryMultiCallable[bytes, bytes]:
        """The RPC on this process's channel.

        Raises:
            RuntimeError: the client has been closed.
        """
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes]
        method = self._connection.channel().unary_unary(rpc.path)
        return method

    def _result(self, rpc: Rpc[ResultT], seconds: float, reply: Callable[[], bytes]) -> ResultT:
        """What the reply says, with all that can go wrong as errors of ours."""
        try:
            return rpc.read(reply())
        except grpc.RpcError as error:
            raise from_rpc(error, self.target, seconds) from error
        except (DecodeError, InvalidField) as error:
            raise ServerError(f"{self.target}: the reply cannot be read: {error}") from error
        except grpc.FutureCancelledError as error:
            raise self._closed() from error
        except ValueError as error:
            # gRPC's word for a channel that another thread closed just now
            if "closed channel" in str(error):
                raise self._closed() from error
            raise

    def _closed(self) -> LosswireError:
        return ServerError(f"{self.target}: the client was closed", grpc.StatusCode.CANCELLED)


def _checked_timeout(timeout: Any) -> float:
    value = plain(timeout)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf:
        return float(min(value, _LONGEST_TIMEOUT))
    raise InvalidInput(f"timeout: expected a finite number of seconds > 0, received {timeout!r}")
