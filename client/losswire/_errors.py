"""The errors a caller can catch, and the one place that makes them from gRPC's.

    LosswireError
    ├── InvalidInput        also a ValueError; the request breaks a rule
    ├── ServerBusy          no room now; another try may succeed
    ├── ServerUnavailable   not there, starting or draining
    ├── DeadlineExceeded    also a TimeoutError
    ├── Unauthenticated     no token or certificate, or a wrong one
    ├── PermissionDenied    a good one that may not do this
    └── ServerError         everything else: the server's fault, or a version too old

Each carries the gRPC status it stands for. What the client finds out by itself carries the status
that the server would have answered with, and the same text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar, Final

import grpc

if TYPE_CHECKING:
    from losswire_proto.rules import InvalidField
    from losswire_proto.v1 import loss_service_pb2 as pb


class LosswireError(Exception):
    """Something went wrong with a call. Raised only as one of its children.

    Attributes:
        code: the gRPC status code.
    """

    default_code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN

    def __init__(self, message: str, code: grpc.StatusCode | None = None) -> None:
        super().__init__(message)
        self.code = self.default_code if code is None else code


class InvalidInput(LosswireError, ValueError):  # noqa: N818 -- the names are a fixed contract
    """The request breaks a rule; the message names field, expected and received."""

    default_code = grpc.StatusCode.INVALID_ARGUMENT

    @classmethod
    def of(cls, error: InvalidField) -> InvalidInput:
        """The same complaint as a caller's error."""
        return cls(str(error))


class ServerBusy(LosswireError):  # noqa: N818 -- the same
    """The server has no room for the request now.

    Attributes:
        retry_delay: when another try is worth it, in seconds; None where the server did not say.
        was_refused: whether it is certain that nothing of the call was begun.
    """

    default_code = grpc.StatusCode.RESOURCE_EXHAUSTED
    retry_delay: float | None = None
    was_refused: bool = False


class ServerUnavailable(LosswireError):  # noqa: N818 -- the same
    """The server is not there, starting or draining; the message names the address.

    Attributes:
        retry_delay: as of `ServerBusy`.
        was_refused: likewise.
    """

    default_code = grpc.StatusCode.UNAVAILABLE
    retry_delay: float | None = None
    was_refused: bool = False


class DeadlineExceeded(LosswireError, TimeoutError):  # noqa: N818 -- the same
    """No answer within the timeout; the message names the address."""

    default_code = grpc.StatusCode.DEADLINE_EXCEEDED


class Unauthenticated(LosswireError):  # noqa: N818 -- the same
    """The server wants a token or certificate, or another one."""

    default_code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(LosswireError):  # noqa: N818 -- the same
    """The token or certificate is good but may not do this."""

    default_code = grpc.StatusCode.PERMISSION_DENIED


class ServerError(LosswireError):
    """Any other status: the server's fault, or something that it does not have."""

    default_code = grpc.StatusCode.INTERNAL


_BY_CODE: Final[dict[grpc.StatusCode, type[LosswireError]]] = {
    kind.default_code: kind
    for kind in (
        InvalidInput,
        ServerBusy,
        ServerUnavailable,
        DeadlineExceeded,
        Unauthenticated,
        PermissionDenied,
    )
}


_CODES: Final[dict[int, grpc.StatusCode]] = {code.value[0]: code for code in grpc.StatusCode}

_OWN_LIMITS: Final = re.compile("larger than max|metadata size exceeds")
"""What gRPC says of messages and metadata beyond its limits, under the code of a full queue."""

_NOT_SENT: Final = re.compile("failed to connect to all addresses|connections to all backends")
"""What gRPC says where it had no connection to send a call by."""

_CUT_OFF: Final = "Stream removed"
"""What gRPC says, with UNKNOWN, of a call whose connection broke otherwise than by being closed:
by bytes that TLS found to be others than were sent, for one."""


def from_rpc(error: grpc.RpcError, target: str, timeout: float) -> LosswireError:
    """The error that a failed call stands for."""
    code, details = error.code(), error.details() or "no details"
    if is_beyond_limits(error):
        # gRPC's own limits, before the server saw anything; no later try can succeed.
        return InvalidInput(
            f"request: larger than {target} accepts in one message: {details}", code
        )
    # Cancelled, and nobody here did it: the server went away while the call was on its way.
    is_gone = code is grpc.StatusCode.CANCELLED and "Channel closed" not in details
    is_broken = code is grpc.StatusCode.UNKNOWN and details.startswith(_CUT_OFF)
    if is_gone or is_broken:
        return ServerUnavailable(f"{target}: the call was cut off: {details}", code)
    return from_status(code, details, target, timeout, _retry_delay(error))


def is_beyond_limits(error: grpc.RpcError) -> bool:
    """Whether gRPC itself refused a message or metadata for its size."""
    is_refused = error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    return is_refused and bool(_OWN_LIMITS.search(error.details() or ""))


def from_status(
    code: grpc.StatusCode,
    details: str,
    target: str,
    timeout: float,
    retry_delay: float | None = None,
) -> LosswireError:
    """The error that a status stands for, whether of a call or of one request among many."""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded(f"no answer from {target} within {timeout:g} s: {details}", code)
    kind = _BY_CODE.get(code, ServerError)
    if kind is InvalidInput:
        return InvalidInput(details, code)
    answer = kind(f"{target}: {details}", code)
    if isinstance(answer, (ServerBusy, ServerUnavailable)):
        answer.retry_delay = retry_delay
        # The server sends a delay only with what it has not begun.
        answer.was_refused = retry_delay is not None or bool(_NOT_SENT.search(details))
    return answer


def from_request_error(error: pb.RequestError, target: str, timeout: float) -> LosswireError:
    """The error that one request among many was answered with."""
    code = _CODES.get(error.code, grpc.StatusCode.UNKNOWN)
    delay = error.retry_delay_ms / 1000 if error.HasField("retry_delay_ms") else None
    return from_status(code, error.message, target, timeout, delay)


def _retry_delay(error: grpc.RpcError) -> float | None:
    metadata: Any = error.trailing_metadata() or ()  # pairs, whatever its stubs say
    pushback = dict(metadata).get("grpc-retry-pushback-ms")
    if pushback is None:
        return None
    try:
        return int(pushback) / 1000
    except ValueError:  # which means the same to gRPC: no other try is wanted
        return -1.0
