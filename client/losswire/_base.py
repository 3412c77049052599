"""What both clients are: a target, a timeout, a connection, and one way to make a call.

A method turns its arguments into a function that makes a plan and hands it to `_call`, which a
synchronous client answers with a result and an asynchronous one with a coroutine.
"""

from __future__ import annotations

import math
import os
from abc import abstractmethod
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

import grpc
from google.protobuf.message import DecodeError

from losswire._advice import Advice
from losswire._arrays import plain
from losswire._calls import SERVICE, Done, NotServed, Unary
from losswire._channel import ClientClosed, Connection, Tls, is_spread, warn_of_plain_token
from losswire._errors import (
    InvalidInput,
    LosswireError,
    ServerError,
    ServerUnavailable,
    from_request_error,
    from_rpc,
    is_beyond_limits,
)
from losswire._many import Many
from losswire._paths import Paths, Transport
from losswire._requests import ask
from losswire._shared import closing
from losswire._submitted import Submitted
from losswire_proto.losses import LOSSES
from losswire_proto.rules import InvalidField

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from losswire._calls import Pause, Plan, Step, Streamed
    from losswire._results import LossResult
    from losswire._waiters import Outcome
    from losswire_proto.dtypes import Array
    from losswire_proto.losses import Loss

ResultT = TypeVar("ResultT")

StreamCall: TypeAlias = Any
"""gRPC's iterator of messages that is a call, too; it has no public name."""

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
        retries: bool = True,
    ) -> None:
        if target is not None and not isinstance(target, str):
            raise InvalidInput(f"target: expected an address as text, received {target!r}")
        if not isinstance(retries, bool):
            raise InvalidInput(f"retries: expected True or False, received {retries!r}")
        self._timeout = _checked_timeout(timeout)
        target = target or os.environ.get("LOSSWIRE_TARGET") or DEFAULT_TARGET
        self._connection = self._pinned = Connection(target, token, tls, timeout=self._timeout)
        warn_of_plain_token(target, token, tls, stacklevel=2)
        if is_spread(target):
            self._pinned = Connection(target, token, tls, timeout=self._timeout, is_pinned=True)
        # What makes another like it.
        self._made_by = partial(
            type(self),
            target,
            timeout=timeout,
            transport=transport,
            token=token,
            tls=tls,
            retries=retries,
        )
        self._advice = Advice()
        self._paths = Paths(transport, retries=retries)
        self._submitted = Submitted()
        connection = self._connection
        # Not a method: the stream's threads would keep the client.
        self._many = Many(partial(_begin_many, connection))

    def __reduce__(self) -> tuple[Callable[[], Any], tuple[()]]:
        """Pickled as how it was made, its token included: another process has a client of its own.

        So data sets that hold a client reach workers that are spawned.
        """
        return self._made_by, ()

    @property
    def target(self) -> str:
        """The server's address."""
        return self._connection.target

    def _method(self, name: str) -> Callable[..., Any]:
        """The method of a name.

        Raises:
            InvalidInput: there is none that is a call.
        """
        if name not in LOSSES and name != "server_info":
            allowed = f"{', '.join(LOSSES)} or server_info"
            raise InvalidInput(f"method: expected one of {allowed}, received {name!r}")
        method: Callable[..., Any] = getattr(self, name)
        return method

    @abstractmethod
    def _call(self, make: Callable[[], Plan[Any]], limit: float | None) -> Any:
        """Carries out the plan and returns its result, now or when awaited."""

    def _compute(
        self,
        loss: type[Loss],
        options: Mapping[str, Any],
        logits: Any,
        labels: Any,
        weights: Mapping[str, Any],
    ) -> Plan[LossResult]:
        """The plan of one loss, its arguments checked."""
        return self._paths.compute(ask(self._advice, loss, options, logits, labels, weights))

    def _transform(self, loss: type[Loss], axis: Any, logits: Any) -> Plan[Array]:
        """The plan of softmax or log-softmax."""
        options = {"axis": axis, "gradients": False}
        return self._paths.transform(ask(self._advice, loss, options, logits))

    def _seconds(self, timeout: float | None) -> float:
        return self._timeout if timeout is None else _checked_timeout(timeout)

    def _advance(
        self, plan: Plan[ResultT], seconds: float, answer: Callable[[], Any] | None = None
    ) -> Step | Done[ResultT]:
        """Sends a plan what its last step brought; its next step, or its end.

        All that can go wrong with an RPC or its reply comes out as an error of ours.
        """
        try:
            if answer is None:
                return next(plan)
            try:
                brought = answer()
            except (LosswireError, NotServed) as error:
                return plan.throw(error)
            except Exception as error:
                ours = self._as_ours(error, seconds)
                if ours is None:
                    raise
                ours.__cause__ = error
                return plan.throw(ours)
            return plan.send(brought)
        except StopIteration as end:
            return Done(end.value)
        except (DecodeError, InvalidField) as error:
            raise ServerError(f"{self.target}: the reply cannot be read: {error}") from error

    def _unary(self, step: Unary) -> grpc.UnaryUnaryMultiCallable[bytes, bytes]:
        """The RPC of a step on this process's channel.

        Raises:
            ClientClosed: the client has been closed.
        """
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes]
        connection = self._pinned if step.is_pinned else self._connection
        method = connection.channel().unary_unary(f"/{SERVICE}/{step.rpc}")
        return method

    def _stream(self, step: Streamed, seconds: float) -> StreamCall:
        """The call of a step, begun."""
        method: grpc.StreamStreamMultiCallable[bytes, bytes]
        method = self._connection.channel().stream_stream(f"/{SERVICE}/{step.rpc}")
        messages = iter(step.messages)
        return method(messages, timeout=seconds, metadata=self._connection.metadata)

    def _joined_reply(self, outcome: Outcome, seconds: float) -> bytes:
        """The reply to a request that shared a message.

        Raises:
            LosswireError: there is none.
            NotServed: the server has no such stream, or takes too small messages.
        """
        if isinstance(outcome, bytes):
            return outcome
        if isinstance(outcome, grpc.RpcError):
            if outcome.code() is grpc.StatusCode.UNIMPLEMENTED or is_beyond_limits(outcome):
                raise NotServed from outcome
            raise from_rpc(outcome, self.target, seconds) from outcome
        if isinstance(outcome, Exception):
            if isinstance(outcome, ConnectionError):
                raise ServerUnavailable(f"{self.target}: {outcome}") from outcome
            raise outcome
        raise from_request_error(outcome, self.target, seconds)

    @contextmanager
    def _errors_as_ours(self, seconds: float) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            ours = self._as_ours(error, seconds)
            if ours is None:
                raise
            raise ours from error

    def _as_ours(self, error: Exception, seconds: float) -> LosswireError | None:
        """The error that one of gRPC's stands for; None for what is not of its making."""
        if isinstance(error, grpc.RpcError):
            return from_rpc(error, self.target, seconds)
        if isinstance(error, (DecodeError, InvalidField)):
            return ServerError(f"{self.target}: the reply cannot be read: {error}")
        # gRPC's word for a channel that another thread closed just now
        is_closed = isinstance(error, ValueError) and "closed channel" in str(error)
        if is_closed or isinstance(error, (grpc.FutureCancelledError, ClientClosed)):
            return self._closed()
        return None

    def _disconnect(self) -> None:
        """Closes the connections; calls in flight are cancelled."""
        self._connection.close()
        self._pinned.close()

    def _let_go(self) -> None:
        """Tells the server to forget this client's regions; it would in time by itself."""
        calls = []
        with suppress(RuntimeError, ValueError):  # closed before
            method = self._unary(Unary("CloseRegion", b"", is_pinned=True))
            for region_id in self._paths.shared.regions.close():
                metadata = self._connection.metadata
                calls.append(method.future(closing(region_id), timeout=1.0, metadata=metadata))
        for call in calls:
            with suppress(grpc.FutureCancelledError):  # another thread closes the channel, too
                call.exception()  # waited for; whatever it is
        self._paths.shared.close()

    def _closed(self) -> LosswireError:
        return ServerError(f"{self.target}: the client was closed", grpc.StatusCode.CANCELLED)


def _checked_timeout(timeout: Any) -> float:
    value = plain(timeout)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf:
        return float(min(value, _LONGEST_TIMEOUT))
    raise InvalidInput(f"timeout: expected a finite number of seconds > 0, received {timeout!r}")


def check_time(pause: Pause, left: float) -> None:
    """Whether so many seconds are more than the pause.

    Raises:
        LosswireError: they are not; what the pause was to mend.
    """
    if pause.seconds >= left:
        raise pause.error


def _begin_many(connection: Connection, messages: Iterator[bytes]) -> StreamCall:
    method: grpc.StreamStreamMultiCallable[bytes, bytes]
    method = connection.channel().stream_stream(f"/{SERVICE}/ComputeMany")
    return method(messages, metadata=connection.metadata)


def take_all(call: StreamCall, take: Callable[[bytes], None]) -> None:
    """Hands every message of a call to `take`; a call that is not taken to its end is cancelled."""
    try:
        for payload in call:
            take(payload)
    finally:
        call.cancel()
