"""Machine code of kernels: compiled once, and kept in a folder for the next start.

In: a kernel, what its code is made for and by, and how. Out: a file that holds the code. Several
servers may share a folder: a file is there as a whole or not at all.
"""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from losswire_server.engine.known_kernels import sources_digest
from losswire_server.engine.launches import COMPILER_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from losswire_server.engine.launches import Kernel


class Cubins:
    """The machine code of one device's kernels.

    Args:
        folder: where it is kept; where that cannot be written, it is compiled at every start.
        made_by: what else decides about it: device and compiler.
    """

    def __init__(self, folder: Path, made_by: str) -> None:
        self._folder = folder
        self._made_by = made_by

    @contextmanager
    def file(self, kernel: Kernel, compile_it: Callable[[Kernel], bytes]) -> Iterator[Path]:
        """Where the kernel's code is read from; compiled if it is not there."""
        made_of = (sources_digest(), COMPILER_OPTIONS, self._made_by, kernel)
        name = f"losswire-{hashlib.sha256(repr(made_of).encode()).hexdigest()[:32]}.cubin"
        with tempfile.TemporaryDirectory(prefix="losswire-") as spare:
            path = self._folder / name
            if not path.is_file():
                code = compile_it(kernel)
                try:
                    _write(path, code)
                except OSError:
                    path = Path(spare) / name
                    path.write_bytes(code)
            yield path


def _write(path: Path, code: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(code)
    Path(file.name).replace(path)
