"""Admission: room for a request is taken before it queues and given back with its reply.

In: the bytes a request will hold. Out: a context in which they are counted, or `Overloaded` at
once, or `Draining` once the server is to stop. Used from the event loop alone.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from losswire_server.errors import Draining, InvalidRequest, Overloaded

if TYPE_CHECKING:
    from collections.abc import Iterator

RETRY_DELAY_MS: Final = 50
"""What a refused client is told to wait: several times a batch, little against a training step."""


class Admission:
    """Counts the bytes of requests in flight against `queue_bytes`."""

    def __init__(self, queue_bytes: int) -> None:
        self._limit = queue_bytes
        self._held_bytes = 0
        self._calls = 0
        self._is_draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def held_bytes(self) -> int:
        """Bytes admitted and not yet given back."""
        return self._held_bytes

    @contextmanager
    def call(self) -> Iterator[None]:
        """Counts a call from its arrival to its end, so that draining can wait for it.

        Raises:
            Draining: the server takes no new calls.
        """
        if self._is_draining:
            raise Draining("the server is draining and takes no new requests; use another one")
        self._calls += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()

    @contextmanager
    def hold(self, nbytes: int) -> Iterator[None]:
        """Holds room for `nbytes`.

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
        try:
            yield
        finally:
            self._held_bytes -= nbytes

    async def drain(self, seconds: float) -> bool:
        """Refuses new calls and waits for those in flight; False where time ran out."""
        self._is_draining = True
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            return False
        return True
