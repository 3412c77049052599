"""Arrays of which a kernel cannot touch a byte too much without being seen.

In: an array. Out: the same numbers in memory of their own, with a page at its end (or its start)
that nobody may touch. `describe` says whose byte an address is; the emulator puts that into its
message.
"""

import ctypes
import mmap
import weakref

import numpy as np

PAGE = mmap.PAGESIZE
SLACK = 0xA5
PROT_NONE = 0

_libc = ctypes.CDLL(None, use_errno=True)
_alive = weakref.WeakSet()


class GuardedMemory:
    """An array between two pages that nobody may touch.

    Args:
        array: what it holds at first.
        name: said in messages.
        alignment: of its address, at the least its items'; up to this many bytes less one remain
            between array and page, and `check` tells whether they were written.
        at_start: the array begins behind the first page, rather than ends before the last.
        writable: without it a write is a fault too.

    Attributes:
        array: the numbers, to be read and written here.
        address: what a kernel is given.
    """

    def __init__(
        self, array: np.ndarray, name="array", alignment=1, *, at_start=False, writable=True
    ):
        self.name = name
        alignment = max(alignment, array.dtype.alignment)
        room = -(-max(array.nbytes, 1) // PAGE) * PAGE
        last = room - array.nbytes
        self._offset = PAGE + (0 if at_start else last // alignment * alignment)
        self._memory = mmap.mmap(-1, room + 2 * PAGE)
        self._bytes = np.frombuffer(self._memory, np.uint8)
        self._bytes[:] = SLACK
        inside = self._bytes[self._offset : self._offset + array.nbytes]
        self.array = inside.view(array.dtype).reshape(array.shape)
        self.array[...] = array
        self.address: int = self._bytes.ctypes.data + self._offset
        self._protect(0, PAGE, PROT_NONE)
        self._protect(PAGE + room, PAGE, PROT_NONE)
        if not writable:
            self._protect(PAGE, room, mmap.PROT_READ)
            self.array.flags.writeable = False
        _alive.add(self)

    def check(self) -> None:
        """Raise AssertionError where a byte around the array was written."""
        end = self._offset + self.array.nbytes
        around = np.r_[self._bytes[PAGE : self._offset], self._bytes[end:-PAGE]]
        touched = np.flatnonzero(around != SLACK)
        assert not touched.size, f"{touched.size} bytes around {self.name} were written"

    def place(self, address: int) -> str:
        """Say which byte of the array this is; empty where it is none of this memory."""
        if not -PAGE <= address - self.address <= self.array.nbytes + PAGE:
            return ""
        return f"byte {address - self.address} of the {self.array.nbytes} of {self.name}"

    def _protect(self, offset: int, size: int, protection: int) -> None:
        start = ctypes.c_void_p(self._bytes.ctypes.data + offset)
        if _libc.mprotect(start, ctypes.c_size_t(size), protection):
            raise OSError(ctypes.get_errno(), "mprotect")


def guarded(array: np.ndarray, name="array") -> np.ndarray:
    """Give the same numbers, in memory that ends where they end; it lives as long as they do."""
    return GuardedMemory(array, name).array


def describe(address: int) -> str:
    """Say whose byte this is, among the guarded arrays that are alive; empty where nobody's."""
    return next(filter(None, (memory.place(address) for memory in list(_alive))), "")
