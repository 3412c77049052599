"""Kernels for GPUs that are not here: a `.cu` file becomes machine code of any architecture.

In: the kernel's text, its macros, the architecture and the name of its entry. Out: the code and
what it needs of a multiprocessor, or `CubinError` with the compiler's log. No driver is needed; the
two wheels come with the `dev` extra.
"""

import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cuda.bindings import nvrtc

from emulation.emulator import DEVICE
from losswire_server.engine.launches import COMPILER_OPTIONS

INSTRUCTION_BYTES = 16
"""Of every architecture since 7.0."""

FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


class CubinError(Exception):
    """A kernel that the compiler for the GPU refuses; carries its log."""


@dataclass(frozen=True, slots=True)
class Cubin:
    """Machine code; registers and bytes for each thread, static shared memory for each block.

    Attributes:
        instructions: of the kernel, each path of it once.
    """

    registers: int
    instructions: int
    spill_stores: int
    spill_loads: int
    stack_bytes: int
    shared_bytes: int
    bytes: bytes


def compile_cubin(
    source: Path, macros: Mapping[str, str | int], architecture: str, entry: str
) -> Cubin:
    """Compile one kernel for one architecture, with the options of a launch through CuPy.

    Args:
        source: the `.cu` file; it may include the headers of its folder and of the engine.
        macros: defined before it.
        architecture: as in "sm_90".
        entry: the name of the `extern "C" __global__` function.

    Raises:
        CubinError: with the compiler's log.
    """
    source = source.resolve()
    options = [
        *(f"-arch={architecture}", "--ptxas-options=-v", *COMPILER_OPTIONS),
        *(f"-D{name}={value}" for name, value in macros.items()),
    ]
    folders = {DEVICE, source.parent}
    headers = [header for folder in folders for header in sorted(folder.glob("*.cuh"))]
    program = _checked(
        nvrtc.nvrtcCreateProgram(
            source.read_bytes(),
            source.name.encode(),
            len(headers),
            [header.read_bytes() for header in headers],
            [header.name.encode() for header in headers],
        )
    )
    try:
        (outcome,) = nvrtc.nvrtcCompileProgram(
            program, len(options), [option.encode() for option in options]
        )
        log = _log(program)
        if outcome != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise CubinError(f"{source.name} for {architecture}: {outcome.name}\n{log}")
        return _described(_code(program), log, entry)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def _described(code: bytes, log: str, entry: str) -> Cubin:
    """Read the assembler's report; functions that stayed functions count with the kernel."""
    frames = [tuple(map(int, found)) for found in FRAME.findall(log)]
    registers = REGISTERS.search(log)
    if f"entry function '{entry}'" not in log or not frames or registers is None:
        raise CubinError(f"the log tells nothing of {entry}'s registers:\n{log}")
    shared = SHARED.search(log)
    stack, stores, loads = (sum(column) for column in zip(*frames, strict=True))
    return Cubin(
        registers=int(registers[1]),
        instructions=len(section(code, f".text.{entry}")) // INSTRUCTION_BYTES,
        spill_stores=stores,
        spill_loads=loads,
        stack_bytes=stack,
        shared_bytes=int(shared[1]) if shared else 0,
        bytes=code,
    )


def section(elf: bytes, name: str) -> bytes:
    """What a section of a 64-bit ELF file holds, which a cubin is."""
    (start,) = struct.unpack_from("<Q", elf, 40)
    size, count, of_names = struct.unpack_from("<3H", elf, 58)
    headers = [struct.unpack_from("<IIQQQQ", elf, start + number * size) for number in range(count)]
    names = headers[of_names][4]
    for at, _, _, _, begin, nbytes in headers:
        if elf[names + at : elf.index(b"\0", names + at)].decode() == name:
            return elf[begin : begin + nbytes]
    raise CubinError(f"no section {name}")


def _checked(answer):
    """Give the value of an answer whose first item is the outcome."""
    outcome, value = answer
    if outcome != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise CubinError(outcome.name)
    return value


def _log(program) -> str:
    log = b" " * _checked(nvrtc.nvrtcGetProgramLogSize(program))
    nvrtc.nvrtcGetProgramLog(program, log)
    return log.rstrip(b"\0").decode()


def _code(program) -> bytes:
    code = b" " * _checked(nvrtc.nvrtcGetCUBINSize(program))
    nvrtc.nvrtcGetCUBIN(program, code)
    return code
