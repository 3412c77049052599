"""Shared memory: regions that clients on this host own and the server looks into.

In: a process and one of its open files, or a file that was handed over (`handover`). Out: memory to
read from and to write to, as long as both live. What is announced is checked before it is mapped
(`mappings`). A region is let go when it is closed, when its process or connection ends, or for
another region of the same one that there is no room for; calls on it keep the mapping until they
are done.
"""

from __future__ import annotations

import asyncio
import os
import resource
import secrets
import sys
import weakref
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final

from losswire_server.errors import InvalidRequest, Overloaded, UnknownRegion
from losswire_server.mappings import (
    RETRY_DELAY_MS,
    FileId,
    Mapping,
    failed,
    map_file,
    open_file_of,
    refused,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from losswire_server.engine.protocol import Registrar

MOST_REGIONS: Final = 256
"""Of one process: each takes a file descriptor and a mapping of the server."""

_TRIES: Final = 10
"""To make room, within `RETRY_DELAY_MS`."""


_NONE: Final = -1
"""In the place of a pidfd: the owner is no process of ours, but a connection."""


@dataclass(frozen=True, slots=True)
class Region:
    """Memory of a client, mapped here; unmapped when nobody refers to it any more."""

    pid: int
    file: FileId
    size: int
    memory: Mapping


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
        registrar: told of all memory while it is mapped; None for no one.
    """

    def __init__(self, max_region_bytes: int, registrar: Registrar | None = None) -> None:
        self._limit = max_region_bytes
        self._registrar = registrar
        self._owners: dict[int, _Owner] = {}
        self._by_id: dict[str, Region] = {}
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        # The other half is for connections.
        self._most = sys.maxsize if files == resource.RLIM_INFINITY else files // 2

    def __len__(self) -> int:
        return len(self._by_id)

    @property
    def nbytes(self) -> int:
        """Bytes of all regions. From any thread."""
        return sum(region.size for region in tuple(self._by_id.values()))

    @property
    def limit(self) -> int:
        """Bytes that each process may share; 0 for none."""
        return self._limit

    async def open(self, pid: int, fd: int, size: int, proof: bytes) -> str:
        """Maps a file that process `pid` has open as `fd`; returns the region's id.

        Raises:
            NotAllowed, InvalidRequest, Overloaded: as `open_handed`.
        """
        return await self._open(pid, partial(open_file_of, pid, fd), size, proof)

    async def open_handed(self, client: int, file: int, size: int, proof: bytes) -> str:
        """Maps a file that a client handed over, and closes it; returns the region's id.

        Args:
            client: its number, less than 0; `forget` is called with it when it has gone.
            file: the file.
            size: bytes of it.
            proof: what it begins with.

        Raises:
            NotAllowed: no such file that this server may open, or the proof is wrong.
            InvalidRequest: it is not such memory, or larger than a process may share.
            Overloaded: calls are using all that the process may share, or the server has no file
                descriptors or address space left.
        """
        given = [file]
        try:
            return await self._open(client, given.pop, size, proof)
        finally:
            for unused in given:
                os.close(unused)

    async def _open(self, pid: int, opened: Callable[[], int], size: int, proof: bytes) -> str:
        if not 0 < size <= self._limit:
            raise InvalidRequest(
                f"size_bytes: expected 1 to {self._limit} (max_region_bytes), received {size}"
            )
        # Watched before it is looked at, so that what has this number is one and the same process.
        owner = self._owners.get(pid) or self._watch(pid)
        owner.opening += 1
        try:
            file, memory = await asyncio.to_thread(map_file, opened, size, proof, self._registrar)
            await self._room(owner, size)
            if self._owners.get(pid) is not owner:  # it has ended meanwhile
                raise refused()
            region_id = secrets.token_urlsafe(16)
            owner.regions[region_id] = self._by_id[region_id] = Region(pid, file, size, memory)
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
            raise _unknown("region_id", region_id)
        del self._owners[region.pid].regions[region_id]
        self._forget_idle(region.pid)

    def forget(self, client: int) -> None:
        """Lets the regions go that a client handed over; it has gone."""
        if client in self._owners:
            self._forget(client)

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
            raise _unknown(where, region_id)
        if offset + length > region.size:
            raise InvalidRequest(
                f"{where}: expected offset + length within the region's {region.size} bytes,"
                f" received {offset} + {length}"
            )
        owned = self._owners[region.pid].regions
        owned[region_id] = owned.pop(region_id)  # now the most recently used
        return memoryview(region.memory)[offset : offset + length]

    def file_of(self, region_id: str) -> FileId:
        """What memory an open region is: the same for two that were made of one file."""
        return self._by_id[region_id].file

    def _watch(self, pid: int) -> _Owner:
        """Begins to share memory with a process, until it ends, or with a client's connection."""
        if pid < 0:
            owner = self._owners[pid] = _Owner(_NONE)
            return owner
        try:
            pidfd = os.pidfd_open(pid)
        except OverflowError as error:
            raise refused() from error
        except OSError as error:
            raise failed(error) from error
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
        if owner.pidfd != _NONE:
            asyncio.get_running_loop().remove_reader(owner.pidfd)
            os.close(owner.pidfd)
        for region_id in owner.regions:
            self._by_id.pop(region_id, None)

    async def _room(self, owner: _Owner, size: int) -> None:
        """Makes room; waits a little for calls that are ending.

        One whose reply has arrived may use its regions for another moment.
        """
        for _ in range(_TRIES - 1):
            with suppress(Overloaded):
                return self._make_room(owner, size)
            await asyncio.sleep(RETRY_DELAY_MS / 1000 / _TRIES)
        return self._make_room(owner, size)

    def _make_room(self, owner: _Owner, size: int) -> None:
        """Lets the least recently used regions go that no call is using."""
        for region_id in list(owner.regions):
            if owner.nbytes + size <= self._limit and len(owner.regions) < MOST_REGIONS:
                break
            self._let_go(owner, region_id)
        if owner.nbytes + size > self._limit:
            raise Overloaded(
                f"size_bytes: calls are using {owner.nbytes} of {self._limit} bytes"
                f" (max_region_bytes), {size} more were asked for",
                RETRY_DELAY_MS,
            )
        if len(owner.regions) >= MOST_REGIONS or len(self) >= self._most:
            raise Overloaded(
                "process_file: the server has no room for more regions", RETRY_DELAY_MS
            )

    def _let_go(self, owner: _Owner, region_id: str) -> None:
        """Unmaps a region, unless a call looks into it.

        Not by `close`, which finds that out too late: a registrar is told before.
        """
        region = owner.regions.pop(region_id)
        is_open = self._by_id.pop(region_id, None) is not None  # the process may have ended
        pid, file, size, memory = region.pid, region.file, region.size, weakref.ref(region.memory)
        del region
        kept = memory()
        if kept is not None:
            owner.regions[region_id] = Region(pid, file, size, kept)
            if is_open:
                self._by_id[region_id] = owner.regions[region_id]


def _unknown(where: str, region_id: str) -> UnknownRegion:
    return UnknownRegion(f"{where}: expected the id of an open region, received {region_id[:40]!r}")
