"""What is to be done around a fork of this process.

Python keeps what is registered for forks for ever; so one function is, by the first who asks for
it, and it knows those who asked as long as they are there.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Protocol
from weakref import WeakSet


class Watcher(Protocol):
    """Who wants to know of forks; called on the thread that forks."""

    def before_fork(self) -> None:
        """The process is about to be copied, with this thread alone."""

    def after_fork_in_parent(self) -> None:
        """It has been; this is the one that was there before."""

    def after_fork_in_child(self) -> None:
        """It has been; this is the copy."""


def watch(watcher: Watcher) -> None:
    """Tells `watcher` of forks as long as it exists."""
    _watchers().add(watcher)


@lru_cache(1)
def _watchers() -> WeakSet[Watcher]:
    watchers: WeakSet[Watcher] = WeakSet()
    told: list[Watcher] = []

    def before() -> None:
        told[:] = watchers
        for watcher in told:
            watcher.before_fork()

    def after_in_parent() -> None:
        for watcher in told:
            watcher.after_fork_in_parent()
        told.clear()

    def after_in_child() -> None:
        for watcher in told:
            watcher.after_fork_in_child()
        told.clear()

    os.register_at_fork(
        before=before, after_in_parent=after_in_parent, after_in_child=after_in_child
    )
    return watchers
