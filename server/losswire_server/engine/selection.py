"""Which engine serves, and why: decided once, at start, and said in the log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from losswire_server.engine.cupy_engine import find_gpu
from losswire_server.engine.numpy_engine import NumpyEngine
from losswire_server.errors import StartupError

if TYPE_CHECKING:
    from losswire_server.engine.protocol import Engine

_NO_KERNELS = "this version computes on the CPU only; GPU kernels come with a later one"


def choose_engine(
    wanted: Literal["auto", "numpy", "cupy"], threads: int | None
) -> tuple[Engine, str]:
    """The engine to serve with, and the reason in words.

    Raises:
        StartupError: `cupy` where it cannot serve.
    """
    if wanted == "numpy":
        return NumpyEngine(threads), "asked for"
    gpu, found = find_gpu()
    reason = found if gpu is None else f"{found}, but {_NO_KERNELS}"
    if wanted == "cupy":
        raise StartupError(f"engine: cupy cannot be used: {reason}; use numpy or auto")
    return NumpyEngine(threads), reason
