"""The kernels that were needed before: compiled at the next start, before the first caller waits.

In: each kernel that is launched. Out: those of earlier starts, from a file beside their
machine code, so that compiling them takes no more than reading it. A file that cannot be read or
written costs time at the first request of each kind, and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from losswire_server.engine.launches import Kernel

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCES: Final = Path(__file__).with_name("cuda")
"""The kernels' text."""

MOST: Final = 512
"""Kernels that are remembered: a model needs a few, and a start must end."""


@cache
def sources_digest() -> str:
    """Of all that kernels are made of; the same as long as they are."""
    digest = hashlib.sha256()
    for path in sorted(SOURCES.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


class KnownKernels:
    """Kernels of this start and of earlier ones. For all threads.

    Args:
        folder: where the file is kept; None remembers nothing beyond this start.
    """

    def __init__(self, folder: Path | None) -> None:
        # Other sources have other macros.
        self._path = None if folder is None else folder / f"kernels-{sources_digest()}.jsonl"
        self._lock = threading.Lock()
        self._kernels = dict.fromkeys(self._read())

    def __iter__(self) -> Iterator[Kernel]:
        with self._lock:
            return iter(list(self._kernels))

    def add(self, kernel: Kernel) -> None:
        """Remembers a kernel that is launched."""
        if kernel in self._kernels:  # nearly always, and then without the lock
            return
        with self._lock:
            if kernel in self._kernels or len(self._kernels) >= MOST:
                return
            self._kernels[kernel] = None
            if self._path is not None:
                with suppress(OSError):
                    self._path.parent.mkdir(parents=True, exist_ok=True)
                    with self._path.open("a", encoding="utf-8") as file:
                        file.write(json.dumps([kernel.source, kernel.entry, kernel.macros]) + "\n")

    def _read(self) -> Iterator[Kernel]:
        if self._path is None:
            return
        try:
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return
        for line in lines[-MOST:]:
            # A line may have been cut off, or be another version's.
            with suppress(ValueError, TypeError):
                source, entry, macros = json.loads(line)
                pairs = tuple((str(name), str(value)) for name, value in macros)
                yield Kernel(str(source), str(entry), pairs)
