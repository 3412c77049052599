"""What one thread sleeps by, and any thread sets off: in a destructor too, whatever locks are held.

`threading.Event` has a lock of its own, which a destructor may find held by the very thread that it
runs on. `queue.SimpleQueue` has no such lock, but up to Python 3.12 its `get` waits for ever where
its thread is kept from running for as long as its timeout, between looking at the clock twice.
"""

from __future__ import annotations

import threading
from contextlib import suppress


class Alarm:
    """Set off once or several times, it wakes its one sleeper once, now or when it next sleeps."""

    def __init__(self) -> None:
        self._quiet = threading.Lock()
        self._quiet.acquire()

    def set(self) -> None:
        """Sets it off."""
        with suppress(RuntimeError):  # it has gone off already
            self._quiet.release()

    def wait(self, seconds: float | None = None) -> bool:
        """Sleeps until it is set off, or so long; whether it was."""
        return self._quiet.acquire(timeout=-1 if seconds is None else seconds)
