"""The GPU: whether there is one, and why it is or is not used.

The only module that imports CuPy. This version has no GPU kernels yet, so a GPU that is found is
reported and left alone; asking for it is an error, never a silent fallback.
"""

from __future__ import annotations


def find_gpu() -> tuple[str | None, str]:
    """The name of the first usable GPU, or None; and in words what was found."""
    try:
        import cupy  # noqa: PLC0415 -- only here, and only when asked
    except ImportError:
        return None, "CuPy is not installed (pip install 'losswire[cuda13]' or '[cuda12]')"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
        properties = cupy.cuda.runtime.getDeviceProperties(0) if count else {"name": b""}
    except cupy.cuda.runtime.CUDARuntimeError as error:
        return None, f"CuPy finds no usable CUDA driver: {error}"
    if not count:
        return None, "CuPy finds no GPU"
    name = properties["name"].decode()
    return name, f"found {name}"
