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
import signal
import sys
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from losswire_server import LocalServer, child, memory

_ASKING: Final = signal.SIGUSR1

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
    """

    heap_bytes: int
    python_blocks: int
    resident_bytes: int

    def drift(self, before: InUse) -> dict[str, float]:
        """By which part each differs from what it was."""
        now, then = asdict(self), asdict(before)
        return {name: now[name] / then[name] - 1 for name in now if then[name]}

    @classmethod
    def now(cls) -> InUse:
        """Of this process, without its garbage; what is free goes back to the system."""
        gc.collect()
        with suppress(AttributeError):  # not with every C library
            ctypes.CDLL(None).malloc_trim(0)
        pool = memory.pool()
        _, resident, shared, *_ = Path("/proc/self/statm").read_text(encoding="ascii").split()
        own = (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")
        return cls(pool.used if pool else 0, sys.getallocatedblocks(), own)


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
