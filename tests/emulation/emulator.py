"""Kernels on the processor: a `.cu` file becomes a library whose launches are played with fibers.

In: the kernel's text, its macros and the name of its entry. Out: a kernel to launch, or
`EmulationError` with what the C++ compiler or the emulation has to say (`gpu_on_cpu.hpp` tells
what it looks for).
"""

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from emulation.guarded import describe

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DEVICE = ROOT / "server" / "losswire_server" / "engine" / "cuda"
LIBRARIES = ROOT / "build" / "emulation"
CHECKS = "alignment,bounds,shift,signed-integer-overflow"
OPTIONS = [
    "-std=c++17",
    "-O1",
    "-fPIC",
    "-shared",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-unknown-pragmas",
    "-ffp-contract=off",
    "-fstack-clash-protection",
    f"-fsanitize={CHECKS}",
    "-fsanitize-undefined-trap-on-error",
]
ORDERS = {"forward": 0, "reverse": 1}
SHUFFLED = 2
WARP = 32
ADDRESS = re.compile(r"0x[0-9a-f]+")

_one_at_a_time = threading.Lock()  # faults of the processor are the process's


class EmulationError(Exception):
    """A kernel that does not compile, or did what no kernel may do; says which block and thread."""


class _Launch(ctypes.Structure):
    """`gpu_on_cpu::Launch`, field by field."""

    _fields_ = (
        ("grid", ctypes.c_uint),
        ("block", ctypes.c_uint),
        ("cluster", ctypes.c_uint),
        ("first", ctypes.c_uint),
        ("order", ctypes.c_int),
        ("seed", ctypes.c_ulonglong),
        ("shared_bytes", ctypes.c_ulonglong),
    )


class EmulatedKernel:
    """One kernel, loaded.

    Args:
        library: made by `compile_kernel`.
    """

    def __init__(self, library: Path):
        functions = ctypes.CDLL(str(library))
        functions.gpu_on_cpu_size_of_arguments.restype = ctypes.c_size_t
        self._launch = functions.gpu_on_cpu_launch
        self._launch.restype = ctypes.c_bool
        self._launch.argtypes = (
            ctypes.POINTER(_Launch),
            ctypes.c_char_p,
            ctypes.c_char_p,
            ctypes.c_size_t,
        )
        self.size_of_arguments: int = functions.gpu_on_cpu_size_of_arguments()

    def launch(
        self,
        grid: int,
        block: int,
        shared_bytes: int,
        arguments: bytes | np.void,
        cluster: int = 1,
        order: str | int = "forward",
        first: int = 0,
    ) -> None:
        """Run every block of the grid, or those from one on.

        Args:
            grid: blocks in x, a multiple of `cluster`.
            block: threads in x, a multiple of 32.
            shared_bytes: of dynamic shared memory, for each block.
            arguments: the bytes of the kernel's one parameter.
            cluster: blocks that run at once and read one another's shared memory.
            order: of blocks and threads between exchanges: "forward", "reverse", or the seed of
                a shuffle.
            first: the first block that is run, a multiple of `cluster`.

        Raises:
            EmulationError: at the first fault; nothing of the kernel runs after it.
            ValueError: where this is no launch.
        """
        content = arguments if isinstance(arguments, bytes) else arguments.tobytes()
        if len(content) != self.size_of_arguments:
            raise ValueError(
                f"arguments: {self.size_of_arguments} bytes expected, {len(content)} received"
            )
        if grid < 1 or cluster < 1 or grid % cluster:
            raise ValueError(f"grid: a multiple of the cluster of {cluster} expected, got {grid}")
        if not 0 <= first < grid or first % cluster:
            raise ValueError(f"first: a multiple of {cluster} below {grid} expected, got {first}")
        if not 1 <= block <= 1024 or block % WARP:
            raise ValueError(f"block: a multiple of {WARP} up to 1024 expected, got {block}")
        seed = order if isinstance(order, int) else 0
        number = SHUFFLED if isinstance(order, int) else ORDERS[order]
        how = _Launch(grid, block, cluster, first, number, seed, shared_bytes)
        message = ctypes.create_string_buffer(4096)
        with _one_at_a_time:
            is_well = self._launch(ctypes.byref(how), content, message, len(message))
        if not is_well:
            raise EmulationError(_explained(message.value.decode()))


def compile_kernel(
    source: Path, macros: Mapping[str, str | int], entry: str, compiler: str = "c++"
) -> EmulatedKernel:
    """Build a kernel for the processor, or take the library that was built of the same text.

    Args:
        source: the `.cu` file.
        macros: defined before it.
        entry: the name of the `extern "C" __global__` function.
        compiler: of C++17.

    Raises:
        EmulationError: with the compiler's errors, or where there is no compiler.
    """
    source = source.resolve()
    if shutil.which(compiler) is None:
        raise EmulationError(f"no C++ compiler: {compiler!r} is not to be found")
    command = [
        *(compiler, *OPTIONS, f"-I{HERE}", f"-I{source.parent}", f"-I{DEVICE}"),
        *(f"-D{name}={value}" for name, value in macros.items()),
    ]
    unit = f'#include "{source}"\n#include "launch.hpp"\nGPU_ON_CPU_KERNEL({entry})\n'
    library = LIBRARIES / f"{source.stem}-{entry}-{_fingerprint(command, unit, source)}.so"
    if not library.exists():
        _build(command, unit, library)
    return EmulatedKernel(library)


def _explained(message: str) -> str:
    """Add what the test calls the memory at the address that the emulation tells of."""
    address = ADDRESS.search(message)
    place = describe(int(address[0], 16)) if address else ""
    return f"{message}: {place}" if place else message


def _fingerprint(command: list[str], unit: str, source: Path) -> str:
    """Of everything that the library is made of but the compiler and its own headers."""
    digest = hashlib.sha256(repr((command, unit)).encode())
    folders = {HERE, DEVICE, source.parent}
    files = [file for folder in folders for file in folder.iterdir()]
    for file in sorted(file for file in files if file.suffix in {".cu", ".cuh", ".hpp"}):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _build(command: list[str], unit: str, library: Path) -> None:
    """Compile aside and move into place, so that another process sees all of it or nothing."""
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        finished = Path(folder) / library.name
        made = subprocess.run(
            [*command, "-x", "c++", "-", "-o", str(finished)],
            input=unit,
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode:
            raise EmulationError(made.stderr)
        os.replace(finished, library)  # noqa: PTH105 - the name says that it replaces
