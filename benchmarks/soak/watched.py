"""A local server that tells what it has in use, when it is at rest.

How much is resident would be a matter of chance: malloc keeps what is freed, and protobuf has it
give back all of that whenever 10,000 blocks of messages have been freed. So it is done here, too,
after garbage has been collected.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import re
import signal
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from losswire_server import LocalServer, child, memory

if TYPE_CHECKING:
    from collections.abc import Iterator

_ASKING: Final = signal.SIGUSR1

_MEMORY: Final = ("heap_bytes", "python_blocks", "resident_bytes")
_POOLED: Final = re.compile(r"(asyncio|losswire-batch|losswire-numpy)_\d+")

_QUIET_SECONDS: Final = 1.5
"""In which looks bring no less: what gRPC still has of clients that have gone is given back within
a second."""


@dataclass(frozen=True, slots=True)
class InUse:
    """What a process has asked for and not given back.

    Attributes:
        heap_bytes: of malloc's heap; 0 where it does not tell.
        python_blocks: of Python's own allocator, which small objects come from.
        resident_bytes: in RAM, of no file and shared with nobody: both, and what lies between.
        threads: but for those in pools, which make them as they need them, up to their size.
        grpc_threads: in gRPC's pool, which has no size: it makes one whenever all are at work,
            one a second at most, and ends what had none for 20 s.
    """

    heap_bytes: int
    python_blocks: int
    resident_bytes: int
    threads: int
    grpc_threads: int

    def drift(self, before: InUse) -> dict[str, float]:
        """By which part the memory of each kind differs from what it was."""
        now, then = asdict(self), asdict(before)
        return {name: now[name] / then[name] - 1 for name in _MEMORY if then[name]}

    def leaks(self, before: InUse) -> dict[str, int]:
        """How many more threads there are than before; of gRPC's, more than twice as many."""
        more = {
            "threads": self.threads - before.threads,
            "grpc_threads": self.grpc_threads - 2 * before.grpc_threads,
        }
        return {name: count for name, count in more.items() if count > 0}

    @classmethod
    def now(cls) -> InUse:
        """Of this process, without its garbage; what is free goes back to the system."""
        gc.collect()
        with suppress(AttributeError):  # not with every C library
            ctypes.CDLL(None).malloc_trim(0)
        pool = memory.pool()
        _, resident, shared, *_ = Path("/proc/self/statm").read_text(encoding="ascii").split()
        own = (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
        names = list(_names_of_threads())
        grpcs = names.count("event_engine")
        pooled = sum(bool(_POOLED.fullmatch(each.name)) for each in threading.enumerate())
        in_heap = pool.used if pool else 0
        return cls(in_heap, sys.getallocatedblocks(), own, len(names) - pooled - grpcs, grpcs)


def _names_of_threads() -> Iterator[str]:
    """Of this process, as the kernel knows them: "python" where Python has made them."""
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            yield (task / "comm").read_text(encoding="utf-8").strip()


class WatchedServer(LocalServer):
    """See `LocalServer`."""

    _child = ("-P", __file__)

    def in_use(self) -> InUse:
        """What it has in use, once that becomes no less."""
        heap = resident = sys.maxsize
        lowest = time.monotonic()
        while True:
            last = self._look()
            if last.heap_bytes < heap or last.resident_bytes < resident:
                lowest = time.monotonic()
            elif time.monotonic() > lowest + _QUIET_SECONDS:
                return last
            heap, resident = min(heap, last.heap_bytes), min(resident, last.resident_bytes)

    def _look(self) -> InUse:
        os.kill(self.pid, _ASKING)
        return InUse(**json.loads(self._line()))


def _tell(_signal: int, _frame: object) -> None:
    sys.stdout.write(json.dumps(asdict(InUse.now())) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    signal.signal(_ASKING, _tell)
    child.main()
