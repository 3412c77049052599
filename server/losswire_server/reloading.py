"""What is read from files, and read again when they are replaced.

In: files, and how to read them. Out: what they held when they last could be read. At the start
files that cannot be used are a `StartupError`; later they are an error in the log, and what was
read before stays in force, so that a file half written takes nobody's service away.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar

import structlog

from losswire_server.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

T = TypeVar("T")

_Stamp: TypeAlias = "tuple[int, ...] | None"
"""Which file lies at a path and when it was last written to; None where there is none."""

_NOWHERE: Final = None


def read_file(setting: str, path: Path, what: str) -> bytes:
    """What a file holds.

    Args:
        setting: that names it.
        path: of the file.
        what: the setting wants.

    Raises:
        StartupError: it cannot be read, or is a pipe, which nobody may ever write to.
    """
    try:
        if path.is_fifo():
            raise StartupError(f"{setting}: {path} is a pipe; name {what}")
        return path.read_bytes()
    except OSError as error:
        raise StartupError(
            f"{setting}: cannot read {path}: {error.strerror}; name {what}"
        ) from error


class Reloaded(Generic[T]):
    """A value that was read from files. For any thread.

    Args:
        setting: what the log calls it.
        paths: the files.
        read: reads them; raises `StartupError` for what cannot be used.

    Raises:
        StartupError: as `read`.
    """

    def __init__(self, setting: str, paths: Sequence[Path], read: Callable[[], T]) -> None:
        self._setting = setting
        self._paths = paths
        self._read = read
        self._lock = threading.Lock()
        self._stamps = self._look()
        self.value: T = read()

    def refresh(self) -> bool:
        """Reads again if the files are others than before; returns whether `value` is new."""
        with self._lock:
            stamps = self._look()  # before reading: what is written meanwhile is seen next time
            if stamps == self._stamps:
                return False
            self._stamps = stamps
            try:
                self.value = self._read()
            except StartupError as error:
                structlog.get_logger().error(
                    "reload_failed", setting=self._setting, reason=str(error)
                )
                return False
            structlog.get_logger().info("reloaded", setting=self._setting)
            return True

    def _look(self) -> list[_Stamp]:
        return [_stamp(path) for path in self._paths]


def _stamp(path: Path) -> _Stamp:
    try:
        status = path.stat()
    except OSError:
        return _NOWHERE
    return (
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns,
    )  # fmt: skip
