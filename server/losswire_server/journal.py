"""Every line of the log that comes of a call carries the call's request id.

In: a call's metadata, `x-request-id` among it where the caller or a proxy gave one. Out: the id in
structlog's context, which the call's tasks inherit. An id of another form than ours is not taken
over, since what strangers send is not for logs.
"""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import grpc
import structlog

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Details: TypeAlias = grpc.HandlerCallDetails
    Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

HEADER: Final = "x-request-id"
_FORM: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


class Journal(grpc.aio.ServerInterceptor):
    """Binds the request id before anything else is done for a call."""

    async def intercept_service(
        self, continuation: Callable[[Details], Awaitable[Handler | None]], details: Details
    ) -> Handler | None:
        """The method's own handler."""
        structlog.contextvars.bind_contextvars(request_id=request_id(details.invocation_metadata))
        return await continuation(details)


def request_id(metadata: Any) -> str:
    """The caller's id, or a new one."""
    for name, value in metadata or ():
        if name == HEADER and isinstance(value, str) and _FORM.fullmatch(value):
            return value
    return uuid.uuid4().hex[:16]
