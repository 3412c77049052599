"""Admission: room for a request is taken before it queues and given back with its reply.

In: the bytes a request will hold. Out: a way to give them back, or `Overloaded` at once. Used from
the event loop alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from losswire_server.errors import InvalidRequest, Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable

RETRY_DELAY_MS: Final = 50
"""What a refused client is told to wait: several times a batch, little against a training step."""


class Admission:
    """Counts the bytes of requests in flight against `queue_bytes`."""

    def __init__(self, queue_bytes: int) -> None:
        self._limit = queue_bytes
        self._held_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Bytes admitted and not yet given back."""
        return self._held_bytes

    def take(self, nbytes: int) -> Callable[[], None]:
        """Takes room for `nbytes`; calling what is returned gives it back, once.

        Raises:
            InvalidRequest: more than there ever is.
            Overloaded: more than is free now.
        """
        if nbytes > self._limit:
            raise InvalidRequest(
                f"request: expected tensors and results of at most {self._limit} bytes"
                f" (queue_bytes), received {nbytes} bytes"
            )
        if self._held_bytes + nbytes > self._limit:
            raise Overloaded(
                f"the queue is full: {self._held_bytes} of {self._limit} bytes are taken,"
                f" {nbytes} more were asked for",
                RETRY_DELAY_MS,
            )
        self._held_bytes += nbytes

        def give_back() -> None:
            self._held_bytes -= nbytes

        return give_back
