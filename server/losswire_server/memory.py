"""The pool of the server's buffers: malloc's heap, told once, at start, to keep what is freed.

A buffer of megabytes is otherwise mapped afresh and given back for each request, and every page of
it costs a page fault at its first touch, more than copying it does. Requests, tiles, results and
replies all come from here, gRPC's buffers too. What is in use at once, admission bounds; of what is
free at the heap's end, no more is kept than the pool's limit.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Final, NamedTuple

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_MAX: Final = -4
_M_ARENA_MAX: Final = -8
LARGEST: Final = 2**31 - 1
"""The largest limit that malloc understands."""

HEAP_BYTES: Final = 512 << 20
"""Of the heap that are asked for as huge pages. Addresses only: memory comes when it is touched."""


class Pool(NamedTuple):
    """Bytes of malloc's heap.

    Attributes:
        used: by whoever asked for them.
        free: kept for the next requests.
    """

    used: int
    free: int


def pool() -> Pool | None:
    """What the heap holds at the moment; None where malloc does not tell."""
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError):
        return None
    mallinfo.restype = _MallInfo
    info = mallinfo()
    return Pool(info.uordblks, info.fordblks)


class _MallInfo(ctypes.Structure):
    """`struct mallinfo2` of glibc 2.33 and newer."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd",
            "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    )  # fmt: skip


def keep_buffers(limit: int) -> None:
    """Has freed memory stay for the next requests, up to `limit` bytes, in huge pages if it can."""
    if keep_freed_memory() and limit >= HEAP_BYTES:
        ask_for_huge_pages()
    keep_freed_memory(limit)


def keep_freed_memory(limit: int = LARGEST) -> bool:
    """Has malloc serve all buffers from one heap and keep what is freed; False without glibc.

    One for all threads: what one of them has freed, another can have. With a heap for each the
    server grew to 326 MiB over 120 streams of 200 MiB, and grew on; so it stays at 107.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    options = {_M_ARENA_MAX: 1, _M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: limit}
    taken = [bool(mallopt(option, value)) for option, value in options.items()]
    return all(taken)


def ask_for_huge_pages() -> bool:
    """Has the heap's memory come in huge pages, where the system gives them to who asks.

    To be called after `keep_freed_memory`, which makes the heap all there is. False where it cannot
    be; NumPy asks for its own large arrays.
    """
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        sbrk, malloc, free = libc.sbrk, libc.malloc, libc.free
    except (AttributeError, OSError):
        return False
    sbrk.restype = malloc.restype = ctypes.c_void_p
    sbrk.argtypes, malloc.argtypes = [ctypes.c_ssize_t], [ctypes.c_size_t]
    free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    block = malloc(HEAP_BYTES)  # the heap grows by what it lacks for so much, and then keeps it
    if block is None:
        return False
    first = -(-block // mmap.PAGESIZE) * mmap.PAGESIZE
    end = sbrk(0)
    is_in_heap = block + HEAP_BYTES <= end  # a heap that cannot grow there goes on elsewhere, above
    nbytes = (end - first) // mmap.PAGESIZE * mmap.PAGESIZE
    is_taken = is_in_heap and not libc.madvise(first, nbytes, mmap.MADV_HUGEPAGE)
    free(block)
    return bool(is_taken)
