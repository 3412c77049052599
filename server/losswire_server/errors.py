"""The errors of the server, each with the gRPC status it becomes.

wire → tokens ── Revoked (UNAUTHENTICATED)
     → validation ── InvalidRequest (INVALID_ARGUMENT) · Unsupported (UNIMPLEMENTED)
                     UnknownRegion (NOT_FOUND) · NotAllowed (PERMISSION_DENIED)
         → admission ── Overloaded (RESOURCE_EXHAUSTED) · Draining (UNAVAILABLE)
           → batcher ── Expired (DEADLINE_EXCEEDED)
             → engine ── Overloaded (RESOURCE_EXHAUSTED) · DeviceFailed (UNAVAILABLE)
                         whatever else happens: INTERNAL, with an incident id

RequestFailed
├── Revoked
├── InvalidRequest
├── Unsupported
├── UnknownRegion
├── NotAllowed
├── Overloaded
├── Draining
├── DeviceFailed
└── Expired
StartupError        not about a request: the server cannot start as configured
ServingFailed       likewise: it cannot go on
"""

from __future__ import annotations

from typing import ClassVar

import grpc


class RequestFailed(Exception):  # noqa: N818 -- the tree reads as what happened to the request
    """A request that gets an error instead of a result. Raised only as one of its children."""

    status: ClassVar[grpc.StatusCode]
    retry_delay_ms: int | None = None


class Revoked(RequestFailed):
    """The token of a call that is open has been taken out of the file."""

    status = grpc.StatusCode.UNAUTHENTICATED


class InvalidRequest(RequestFailed):
    """The request breaks the contract; the message names field, expected and received."""

    status = grpc.StatusCode.INVALID_ARGUMENT


class Unsupported(RequestFailed):
    """The request is sound, but this version does not have what it asks for."""

    status = grpc.StatusCode.UNIMPLEMENTED


class UnknownRegion(RequestFailed):
    """Shared memory that is not open, or not any more."""

    status = grpc.StatusCode.NOT_FOUND


class NotAllowed(RequestFailed):
    """Something that this client may not do."""

    status = grpc.StatusCode.PERMISSION_DENIED


class Overloaded(RequestFailed):
    """There is no room for the request now.

    Attributes:
        retry_delay_ms: when another try is worth it, in milliseconds; None where results may have
            been written over the inputs before. A client takes a delay for "nothing was begun".
    """

    status = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, message: str, retry_delay_ms: int | None) -> None:
        super().__init__(message)
        self.retry_delay_ms = retry_delay_ms


class Draining(RequestFailed):
    """The server is about to stop and takes no new calls.

    It has a delay, too, since nothing was begun: another server, or this one's successor, may do.
    """

    status = grpc.StatusCode.UNAVAILABLE
    retry_delay_ms = 50


class DeviceFailed(RequestFailed):
    """What computes has failed for good; the server is about to end."""

    status = grpc.StatusCode.UNAVAILABLE


class Expired(RequestFailed):
    """The deadline passed before anything was computed."""

    status = grpc.StatusCode.DEADLINE_EXCEEDED


class StartupError(Exception):
    """The server cannot start as configured; the message is one line that says what to do."""


class ServingFailed(Exception):  # noqa: N818 -- as `RequestFailed`
    """The server cannot go on; the message is one line that says why."""
