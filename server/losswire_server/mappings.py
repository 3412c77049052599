"""Memory of another process, mapped: what is announced is checked before.

In: a process and one of its open files. Out: its memory, or why not. It begins with a proof that
whoever announced it can read it, without which nothing is told of it, and it is memory that cannot
shrink (a client that cut it off could otherwise kill the server).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hmac
import mmap
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Final, TypeAlias

from losswire_server.errors import InvalidRequest, NotAllowed, Overloaded, RequestFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from losswire_server.engine.protocol import Registrar

PROOF_BYTES: Final = 32
"""At the start of a region: random bytes that OpenRegion repeats."""

RETRY_DELAY_MS: Final = 50
"""Until there may be room again."""

_POPULATE_WRITE: Final = 23
"""MADV_POPULATE_WRITE of Linux 5.14, which Python has no name for."""

_POPULATED_BYTES: Final = 16 << 20
"""At once: Python keeps the interpreter's lock meanwhile."""

_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})

FileId: TypeAlias = tuple[int, int]
"""Device and inode: what two regions share that are one and the same memory."""


class Mapping(mmap.mmap):
    """Memory that a registrar knows of from when it is mapped until right before it is not."""

    registrar: Registrar | None = None
    address = 0

    def announce(self, registrar: Registrar) -> None:
        """Tells a registrar of it."""
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self))
        registrar.register(self.address, len(self))
        self.registrar = registrar

    def __del__(self) -> None:
        if self.registrar is not None:
            self.registrar.unregister(self.address)


def map_file(
    opened: Callable[[], int], size: int, proof: bytes, registrar: Registrar | None
) -> tuple[FileId, Mapping]:
    """Maps a file, and says which it is.

    Args:
        opened: opens it, or gives one that is open; it is closed here.
        size: bytes of it.
        proof: what it begins with.
        registrar: told of the mapping.

    Raises:
        NotAllowed, InvalidRequest, Overloaded: as `Regions.open`.
    """
    try:
        file = opened()
    except OSError as error:
        raise failed(error) from error
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise refused()
        head = os.pread(file, PROOF_BYTES, 0)
        if len(head) < PROOF_BYTES or not hmac.compare_digest(head, proof):
            raise refused()
        _check(file, size)
        memory = Mapping(file, size)
        status = os.fstat(file)
    except OSError as error:
        raise failed(error) from error
    finally:
        os.close(file)
    with suppress(OSError):  # pages that are not mapped now will be when they are touched
        for start in range(0, size, _POPULATED_BYTES):
            memory.madvise(_POPULATE_WRITE, start, min(_POPULATED_BYTES, size - start))
    if registrar is not None:
        memory.announce(registrar)
    return (status.st_dev, status.st_ino), memory


def open_file_of(pid: int, fd: int) -> int:
    """Opens the file that process `pid` has open as `fd`.

    Raises:
        NotAllowed: it is no such file.
        OSError: it cannot be opened.
    """
    path = f"/proc/{pid}/fd/{fd}"
    # Looked at first: to open a device can have effects, and a pipe could block.
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 -- no path to speak of
        raise refused()
    return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def _check(file: int, size: int) -> None:
    """Refuses memory that could be taken from under the server.

    Raises:
        InvalidRequest: says what is wrong, to one who has read the file.
    """
    # Pages of other sizes come from a pool that may be empty when they are touched.
    if not _seals(file) & fcntl.F_SEAL_SHRINK or os.fstatvfs(file).f_bsize != mmap.PAGESIZE:
        raise InvalidRequest(
            "process_file: expected memory of memfd_create, in pages of the usual size and with"
            " F_SEAL_SHRINK, received another file"
        )
    length = os.fstat(file).st_size
    if not PROOF_BYTES <= size <= length:
        raise InvalidRequest(
            f"size_bytes: expected {PROOF_BYTES} to the file's {length}, received {size}"
        )


def _seals(file: int) -> int:
    try:
        return fcntl.fcntl(file, fcntl.F_GET_SEALS)
    except OSError:
        return 0


def failed(error: OSError) -> RequestFailed:
    """What the caller is told of a file that cannot be opened or mapped."""
    if error.errno in _EXHAUSTED:
        return Overloaded("process_file: the server has no room for more regions", RETRY_DELAY_MS)
    return refused()


def refused() -> NotAllowed:
    """One answer to all that is not there or not allowed, so that nothing can be found out."""
    return NotAllowed(
        "process_file: expected a process of the server's user and pid namespace, one of its open"
        " files, and the first bytes of that file as proof; shared_file: the name of a file that"
        " was handed over, and the same"
    )
