"""The machine, the code and the versions, without which figures mean nothing."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_VECTORS: Final = ("avx512f", "avx2", "asimd")
"""Names for the widest vectors of a processor, which NumPy's speed depends on most."""


def described(packages: Sequence[str]) -> dict[str, Any]:
    """Commit, processor, kernel, Python, and the versions of packages."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "has_changes": bool(_git("status", "--porcelain", "--", "client", "proto", "server")),
        "cores": len(os.sched_getaffinity(0)),
        "processor": _field("model name") or platform.machine(),
        "vectors": next((each for each in _VECTORS if each in _features()), ""),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in packages},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _features() -> list[str]:
    return (_field("flags") or _field("Features")).split()


def _field(name: str) -> str:
    """Of the first processor, as the kernel tells it; nothing where it does not."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith(name):
            return line.partition(":")[2].strip()
    return ""


def _git(*arguments: str) -> str:
    """What git says; nothing where there is none, or no repository."""
    try:
        done = subprocess.run(  # noqa: S603
            ["git", *arguments],  # noqa: S607 -- whichever is there
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return ""
    return done.stdout.strip()
