"""Every line of the log that comes of a call carries the call's request id.

In: the call that is at work, and a line. Out: the line with `request_id`: the caller's
`x-request-id`, where it or a proxy gave one, or a new one, the same for all lines of the call. It
is looked for when there is a line: calls of which there is nothing to say pay nothing. An id of
another form than ours is not taken over, since what strangers send is not for logs.
"""

from __future__ import annotations

import re
import uuid
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from structlog.typing import EventDict

HEADER: Final = "x-request-id"
_FORM: Final = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


class CallId:
    """Of one call; looked for once."""

    __slots__ = ("_context", "_id")

    def __init__(self, context: Any) -> None:
        self._context, self._id = context, ""

    def __str__(self) -> str:
        if not self._id:
            self._id = request_id(self._context.invocation_metadata())
        return self._id


_CALL: Final[ContextVar[CallId | None]] = ContextVar("losswire_call", default=None)


def begin(context: Any) -> None:
    """Says which call the current task is at work for; tasks that it starts inherit it."""
    _CALL.set(CallId(context))


def add_request_id(_logger: Any, _method: str, line: EventDict) -> EventDict:
    """Structlog's processor that puts the id into a line."""
    call = _CALL.get()
    if call is not None:
        line.setdefault("request_id", str(call))
    return line


def request_id(metadata: Any) -> str:
    """The caller's id, or a new one."""
    for name, value in metadata or ():
        if name == HEADER and isinstance(value, str) and _FORM.fullmatch(value):
            return value
    return uuid.uuid4().hex[:16]
