"""Calls that go on while their caller does other work: `client.submit`.

In: a method of the client and its arguments. Out: a future. Calls are made by a few threads of the
client's own, in the order they were submitted; who submits more than these can take waits.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

ResultT = TypeVar("ResultT")

MOST: Final = 16
"""Calls that are submitted and not done: each holds its tensors."""


class Submitted:
    """The submitted calls of a client, in each process that submits any."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._pool: ThreadPoolExecutor | None = None
        self._opening = threading.Lock()
        self._room = threading.Semaphore(MOST)
        self._is_closed = False

    def submit(self, call: Callable[[], ResultT]) -> Future[ResultT]:
        """Makes a call, soon, on another thread.

        Raises:
            RuntimeError: the client has been closed.
        """
        if self._pid != os.getpid():
            self._begin()  # the threads are the parent's
        room = self._room
        room.acquire()
        try:
            future = self._running().submit(call)
        except BaseException:
            room.release()
            raise
        future.add_done_callback(lambda _: room.release())
        return future

    def close(self) -> None:
        """Makes no more calls; those that have not begun are cancelled."""
        with self._opening:
            self._is_closed = True
            if self._pool is not None and self._pid == os.getpid():
                self._pool.shutdown(wait=False, cancel_futures=True)

    def _running(self) -> ThreadPoolExecutor:
        with self._opening:
            if self._is_closed:
                raise RuntimeError("the client has been closed")
            if self._pool is None:
                self._pool = ThreadPoolExecutor(MOST, thread_name_prefix="losswire-submit")
            return self._pool
