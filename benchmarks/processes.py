"""What a process has used, as the kernel counts it."""

from __future__ import annotations

import os
from pathlib import Path


def cpu_seconds(pid: int) -> float:
    """Processor time of all threads of a process so far, in ticks of 10 ms."""
    # The name of the program, in brackets, may hold anything
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    user, system = int(fields[11]), int(fields[12])
    return (user + system) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Memory of a process that is in RAM now."""
    return _status_bytes(pid, "VmRSS")


def own_bytes(pid: int) -> int:
    """That part of it which belongs to no file and is shared with nobody."""
    return _status_bytes(pid, "RssAnon")


def peak_bytes(pid: int) -> int:
    """The most that it was since the start, or since `forget_peak`."""
    return _status_bytes(pid, "VmHWM")


def forget_peak(pid: int) -> None:
    """Starts the peak anew from what is resident now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5", encoding="ascii")


def _status_bytes(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) << 10
    raise LookupError(f"the kernel does not tell {name} of {pid}")
