"""Memory that a client shares with a server on the same host.

A region is a piece of anonymous memory that can never shrink. The client owns it: arrays are made
in it, by `empty` or for results, and when the last of them is gone the region serves another array.
Nothing has a name, so nothing is left behind when a process dies. A region is announced to the
server when it is first used there, and again whenever the server does not know it (any more).
"""

from __future__ import annotations

import errno
import functools
import math
import mmap
import os
import threading
import weakref
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from losswire_proto.v1 import loss_service_pb2 as pb

if TYPE_CHECKING:
    from losswire._handover import Handover
    from losswire_proto.dtypes import Array

try:
    import fcntl
except ImportError:  # no memfd there either
    fcntl = None  # type: ignore[assignment]

IS_POSSIBLE: Final = hasattr(os, "memfd_create") and hasattr(fcntl, "F_ADD_SEALS")
"""Whether this platform has memory that can be shared this way."""

SMALLEST: Final = 64 << 10
"""Bytes of the smallest region."""

KEPT_BYTES: Final = 512 << 20
"""Regions that no array lies in are kept up to this, for arrays to come."""

KEPT_REGIONS: Final = 64
"""And no more than so many."""

MOST_REGIONS: Final = 96
"""That arrays lie in at the same time: each takes two file descriptors of this process."""

_HEAD_BYTES: Final = 4096
_PROOF_BYTES: Final = 32
"""A region begins with random bytes, which prove to the server that we can read it."""

_ALIGNMENT: Final = 8
"""What the server wants offsets of results to be multiples of."""

_POPULATE_WRITE: Final = 23
"""MADV_POPULATE_WRITE of Linux 5.14, which Python has no name for."""


class Region:
    """One piece of shared memory.

    Attributes:
        capacity: bytes for an array.
        id: the server's name for it; None while it is not announced.
        is_reusable: whether another array may lie in it later. Not after a fork, when a child may
            still read it, nor after a call that failed, when the server may still write it.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.id: str | None = None
        self.is_reusable = True
        self._pid = os.getpid()
        self._proof = os.urandom(_PROOF_BYTES)
        size = _HEAD_BYTES + capacity
        self._file = os.memfd_create("losswire", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self._file, size)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(self._file, fcntl.F_ADD_SEALS, seals)
        self._memory = mmap.mmap(self._file, size)
        with suppress(OSError):  # not every kernel has them
            self._memory.madvise(mmap.MADV_HUGEPAGE)
        if capacity <= KEPT_BYTES:  # more may not be there, and is not asked for until it is used
            with suppress(OSError):
                self._memory.madvise(_POPULATE_WRITE)
        self._memory[:_PROOF_BYTES] = self._proof
        self.address = np.frombuffer(self._memory, np.uint8).ctypes.data + _HEAD_BYTES

    def __del__(self) -> None:
        with suppress(AttributeError, OSError):
            os.close(self._file)

    @property
    def size(self) -> int:
        """Bytes that the server maps."""
        return _HEAD_BYTES + self.capacity

    @property
    def is_own(self) -> bool:
        """Whether this process made it, and not one that it was forked from."""
        return self._pid == os.getpid()

    def announcement(self, handover: Handover | None) -> bytes:
        """The `OpenRegionRequest` that tells the server of it.

        Args:
            handover: where its file has to be handed over; None where the server can open it.

        Raises:
            OSError: it cannot be handed over.
        """
        request = pb.OpenRegionRequest(size_bytes=self.size, proof=self._proof)
        if handover is None:
            request.process_file.CopyFrom(pb.ProcessFile(pid=self._pid, fd=self._file))
        else:
            request.shared_file = handover.give(self._file)
        return request.SerializeToString()


class Lease:
    """The use of a region by arrays: it ends when the last of them is gone.

    NumPy keeps the lease as the base of every array and view that was made from it.
    """

    def __init__(self, region: Region, nbytes: int, returned: deque[Region]) -> None:
        self.region = region
        self.returned = returned
        self._forks = _forks()[0]
        self.__array_interface__ = {
            "data": (region.address, False),
            "shape": (nbytes,),
            "typestr": "|u1",
            "version": 3,
        }

    def __del__(self) -> None:
        if self._forks != _forks()[0]:
            self.region.is_reusable = False  # a child may still look at the arrays that were here
        # Only put aside, as this may run at any moment, whatever locks are held.
        self.returned.append(self.region)


class Regions:
    """The regions of one client, in each process that it is used in."""

    def __init__(self) -> None:
        _forks()
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._all: weakref.WeakSet[Region] = weakref.WeakSet()
        self._returned: deque[Region] = deque()
        self._free: list[Region] = []
        self._closing: list[str] = []

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An array of whatever was in memory, in a region of its own.

        Raises:
            OSError: there is no memory for it, or too many arrays lie in regions.
        """
        nbytes = math.prod(shape) * dtype.itemsize
        lease = Lease(self._take(nbytes), nbytes, self._returned)
        array: Array = np.asarray(lease).view(dtype).reshape(shape)
        return array

    def find(self, array: Array) -> tuple[Region, int] | None:
        """The region of this client that an array lies in, and its offset there; None for none."""
        base: Any = array
        while isinstance(base, np.ndarray):
            base = base.base
        if not isinstance(base, Lease) or base.returned is not self._returned:
            return None
        if not base.region.is_own or not array.flags.c_contiguous:
            return None
        offset = array.__array_interface__["data"][0] - base.region.address
        return None if offset % _ALIGNMENT else (base.region, _HEAD_BYTES + offset)

    @property
    def is_crowded(self) -> bool:
        """Whether so many arrays lie in regions that further results had better not stay there."""
        return len(self._all) - len(self._free) - len(self._returned) > MOST_REGIONS // 2

    def announced(self, region: Region, region_id: str) -> str:
        """The id that a region goes by from now on: that of the thread that was first."""
        with self._lock:
            if region.id is None:
                region.id = region_id
            else:
                self._closing.append(region_id)
            return region.id

    def close(self) -> list[str]:
        """Keeps no more regions; the ids of all that the server can forget."""
        self._begin_after_fork()
        with self._lock:
            self._sort_out(0)
            ids = [region.id for region in self._all if region.id is not None]
            for region in self._all:
                region.id = None
            ids += self._closing
            self._closing.clear()
        return ids

    def closing(self) -> list[str]:
        """The ids of regions that are not kept any more; each is returned once."""
        self._begin_after_fork()
        with self._lock:
            ids, self._closing = self._closing, []
        return ids

    def _begin_after_fork(self) -> None:
        # A parent's regions are not this process's to give away, nor to close. A thread that the
        # fork left behind may even hold the lock.
        if self._pid != os.getpid():
            self._begin()

    def _take(self, nbytes: int) -> Region:
        """A region for an array: one that is free, or a new one."""
        self._begin_after_fork()
        capacity = _rounded(nbytes)
        with self._lock:
            self._sort_out(KEPT_BYTES)
            if len(self._all) - len(self._free) >= MOST_REGIONS:
                raise OSError(errno.EMFILE, "too many arrays lie in shared memory")
            for region in self._free:
                if capacity <= region.capacity <= 2 * capacity:
                    self._free.remove(region)
                    return region
        region = Region(capacity)
        with self._lock:
            self._all.add(region)
        return region

    def _sort_out(self, kept_bytes: int) -> None:
        """Puts back what has been returned, and gives up the oldest beyond `kept_bytes`."""
        while self._returned:
            self._free.append(self._returned.popleft())
        total = sum(region.capacity for region in self._free)
        for region in list(self._free):
            is_too_much = total > kept_bytes or len(self._free) > KEPT_REGIONS
            if is_too_much or not region.is_reusable:
                self._free.remove(region)
                total -= region.capacity
                if region.id is not None:
                    self._closing.append(region.id)


def _rounded(nbytes: int) -> int:
    """A capacity for arrays of about this size, larger by a quarter or `SMALLEST` at most."""
    step = max(SMALLEST, 1 << max(0, nbytes.bit_length() - 3))
    return max(1, -(-nbytes // step)) * step


@functools.cache
def _forks() -> list[int]:
    """How often this process has forked since this was first asked."""
    count = [0]

    def add_one() -> None:
        count[0] += 1

    os.register_at_fork(before=add_one)
    return count
