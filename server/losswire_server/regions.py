"""Shared memory: regions that clients on this host own and the server looks into.

In: a process and one of its open files. Out: memory to read from and to write to, as long as both
live. What is announced is checked before it is mapped: the file is memory that cannot shrink (a
client that cut it off could otherwise kill the server), and it begins with a proof that whoever
announced it can read it. A region is let go when it is closed, when its process ends, or for
another region of the same process that there is no room for; calls on it keep the mapping until
they are done.
"""

from __future__ import annotations

import asyncio
import fcntl
import hmac
import mmap
import os
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from losswire_server.errors import InvalidRequest, NotAllowed, Overloaded, UnknownRegion

PROOF_BYTES: Final = 32
"""At the start of a region: random bytes that OpenRegion repeats."""

RETRY_DELAY_MS: Final = 50
_POPULATE_WRITE: Final = 23
"""MADV_POPULATE_WRITE of Linux 5.14, which Python has no name for."""


@dataclass(frozen=True, slots=True)
class Region:
    """Memory of a client, mapped here; unmapped when nobody refers to it any more."""

    pid: int
    size: int
    memory: mmap.mmap


@dataclass(slots=True)
class _Owner:
    """A process that shares memory, its regions from the least to the most recently used."""

    pidfd: int
    opening: int = 0
    regions: dict[str, Region] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        return sum(region.size for region in self.regions.values())


class Regions:
    """The regions of all clients, at most `max_region_bytes` for each process. For one event loop.

    Args:
        max_region_bytes: 0 where no memory is shared.
    """

    def __init__(self, max_region_bytes: int) -> None:
        self._limit = max_region_bytes
        self._owners: dict[int, _Owner] = {}
        self._by_id: dict[str, Region] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def limit(self) -> int:
        """Bytes that each process may share; 0 for none."""
        return self._limit

    async def open(self, pid: int, fd: int, size: int, proof: bytes) -> str:
        """Maps a file that process `pid` has open as `fd`; returns the region's id.

        Raises:
            NotAllowed: no such file that this server may open, or the proof is wrong.
            InvalidRequest: it is not such memory, or larger than a process may share.
            Overloaded: calls are using all that the process may share.
        """
        if not 0 < size <= self._limit:
            raise InvalidRequest(
                f"size_bytes: expected 1 to {self._limit} (max_region_bytes), received {size}"
            )
        # Watched before it is looked at, so that what has this number is one and the same process.
        owner = self._owners.get(pid) or self._watch(pid)
        owner.opening += 1
        try:
            memory = await asyncio.to_thread(_map, pid, fd, size, proof)
            if self._owners.get(pid) is not owner:  # it has ended meanwhile
                raise _refused()
            self._make_room(owner, size)
            region_id = secrets.token_urlsafe(16)
            owner.regions[region_id] = self._by_id[region_id] = Region(pid, size, memory)
            return region_id
        finally:
            owner.opening -= 1
            self._forget_idle(pid)

    def close(self, region_id: str) -> None:
        """Lets a region go; calls that use it finish first.

        Raises:
            UnknownRegion: it is not open.
        """
        region = self._by_id.pop(region_id, None)
        if region is None:
            raise UnknownRegion(
                f"region_id: expected the id of an open region, received {region_id!r}"
            )
        del self._owners[region.pid].regions[region_id]
        self._forget_idle(region.pid)

    def close_all(self) -> None:
        """Lets all regions go."""
        for pid in list(self._owners):
            self._forget(pid)

    def find(self, where: str, region_id: str, offset: int, length: int) -> memoryview:
        """The memory of a slice.

        Raises:
            UnknownRegion: the region is not open.
            InvalidRequest: the slice is not within it.
        """
        region = self._by_id.get(region_id)
        if region is None:
            raise UnknownRegion(
                f"{where}: expected the id of an open region, received {region_id!r}"
            )
        if offset + length > region.size:
            raise InvalidRequest(
                f"{where}: expected offset + length within the region's {region.size} bytes,"
                f" received {offset} + {length}"
            )
        owned = self._owners[region.pid].regions
        owned[region_id] = owned.pop(region_id)  # now the most recently used
        return memoryview(region.memory)[offset : offset + length]

    def _watch(self, pid: int) -> _Owner:
        """Begins to share memory with a process, until it ends."""
        try:
            pidfd = os.pidfd_open(pid)
        except (OSError, OverflowError) as error:
            raise _refused() from error
        asyncio.get_running_loop().add_reader(pidfd, self._forget, pid)
        owner = self._owners[pid] = _Owner(pidfd)
        return owner

    def _forget_idle(self, pid: int) -> None:
        """Stops watching a process that shares nothing."""
        owner = self._owners.get(pid)
        if owner is not None and not owner.regions and not owner.opening:
            self._forget(pid)

    def _forget(self, pid: int) -> None:
        owner = self._owners.pop(pid)
        asyncio.get_running_loop().remove_reader(owner.pidfd)
        os.close(owner.pidfd)
        for region_id in owner.regions:
            self._by_id.pop(region_id, None)

    def _make_room(self, owner: _Owner, size: int) -> None:
        """Lets the least recently used regions go that no call is using."""
        for region_id, region in list(owner.regions.items()):
            if owner.nbytes + size <= self._limit:
                return
            with suppress(BufferError):  # a call looks into it
                region.memory.close()
                del owner.regions[region_id], self._by_id[region_id]
        if owner.nbytes + size > self._limit:
            raise Overloaded(
                f"size_bytes: calls are using {owner.nbytes} of {self._limit} bytes"
                f" (max_region_bytes), {size} more were asked for",
                RETRY_DELAY_MS,
            )


def _map(pid: int, fd: int, size: int, proof: bytes) -> mmap.mmap:
    path = f"/proc/{pid}/fd/{fd}"
    try:
        # Looked at first: to open a device can have effects, and a pipe could block.
        is_file = stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116 -- no path to speak of
        file = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC) if is_file else None
    except OSError as error:
        raise _refused() from error
    if file is None:
        raise _refused()
    try:
        if not _seals(file) & fcntl.F_SEAL_SHRINK:
            raise InvalidRequest(
                "process_file: expected memory of memfd_create with F_SEAL_SHRINK,"
                " received a file that may shrink"
            )
        length = os.fstat(file).st_size
        if not PROOF_BYTES <= size <= length:
            raise InvalidRequest(
                f"size_bytes: expected {PROOF_BYTES} to the file's {length}, received {size}"
            )
        memory = mmap.mmap(file, size)
    finally:
        os.close(file)
    if not hmac.compare_digest(memory[:PROOF_BYTES], proof):
        memory.close()
        raise _refused()
    with suppress(OSError):  # pages that are not mapped now will be when they are touched
        memory.madvise(_POPULATE_WRITE)
    return memory


def _seals(file: int) -> int:
    try:
        return fcntl.fcntl(file, fcntl.F_GET_SEALS)
    except OSError:
        return 0


def _unknown(where: str, region_id: str) -> UnknownRegion:
    return UnknownRegion(f"{where}: expected the id of an open region, received {region_id[:40]!r}")


def _refused() -> NotAllowed:
    """One answer to all that is not there or not allowed, so that nothing can be found out."""
    return NotAllowed(
        "process_file: expected a process of the server's user and pid namespace, one of its open"
        " files, and the first bytes of that file as proof"
    )
