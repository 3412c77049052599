"""Machine code of kernels: compiled once, and kept in a folder for the next start.

In: a kernel, what its code is made for and by, and how. Out: the code. Several servers may share a
folder: a file is there as a whole or not at all, and begins with a digest of the code, without
which it counts as not there.
"""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from losswire_server.engine.known_kernels import sources_digest
from losswire_server.engine.launches import COMPILER_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable

    from losswire_server.engine.launches import Kernel

_DIGEST_BYTES: Final = 32


class Cubins:
    """The machine code of one device's kernels.

    Args:
        folder: where it is kept; where that cannot be written, it is compiled at every start.
        made_by: what else decides about it: device and compiler.
    """

    def __init__(self, folder: Path, made_by: str) -> None:
        self._folder = folder
        self._made_by = made_by

    def code(self, kernel: Kernel, compile_it: Callable[[Kernel], bytes]) -> bytes:
        """The kernel's machine code; compiled if it is not there."""
        made_of = (sources_digest(), COMPILER_OPTIONS, self._made_by, kernel)
        path = self._folder / f"losswire-{_digest(repr(made_of).encode()).hex()}.cubin"
        code = _read(path)
        if code is None:
            code = compile_it(kernel)
            with suppress(OSError):
                _write(path, code)
        return code


def _read(path: Path) -> bytes | None:
    try:
        content = path.read_bytes()
    except OSError:
        return None
    code = content[_DIGEST_BYTES:]
    return code if content[:_DIGEST_BYTES] == _digest(code) else None


def _write(path: Path, code: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(_digest(code) + code)
    Path(file.name).replace(path)


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
