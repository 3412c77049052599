"""Which engine serves, and why: decided once, at start, and said in the log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from losswire_proto.losses import LossCall
from losswire_server.engine.cupy_engine import CupyDevice, find_gpus, in_short
from losswire_server.engine.device import DeviceError
from losswire_server.engine.gpu_engine import GpuEngine
from losswire_server.engine.known_kernels import KnownKernels
from losswire_server.engine.numpy_engine import NumpyEngine
from losswire_server.errors import RequestFailed, StartupError
from losswire_server.requests import LossRequest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from losswire_server.engine.protocol import Engine


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """What is asked for.

    Attributes:
        engine: which; "auto" takes GPUs where they can be used.
        threads: of the NumPy engine; None for one per core.
        devices: numbers of GPUs with commas between them, or "all".
        gpu_memory_bytes: of each GPU; None for a share of it.
        kernel_cache: folder of what was compiled before; None for CuPy's own, and no list of it.
    """

    engine: Literal["auto", "numpy", "cupy"]
    threads: int | None = None
    devices: str = "0"
    gpu_memory_bytes: int | None = None
    kernel_cache: Path | None = None


def choose_engine(wanted: EngineSettings, on_lost: Callable[[str], None]) -> tuple[Engine, str]:
    """The engine to serve with, and the reason in words.

    Args:
        wanted: what is asked for.
        on_lost: called, on any thread, with why nothing can be computed any more.

    Raises:
        StartupError: `cupy` where it cannot serve, or a GPU that is not there.
    """
    if wanted.engine == "numpy":
        return NumpyEngine(wanted.threads), "asked for"
    count, reason = find_gpus()
    if count:
        numbers = _numbers(wanted.devices, count)
        try:
            return _gpu_engine(numbers, wanted, on_lost), reason
        except (DeviceError, RequestFailed) as error:
            reason = f"{reason}, but it cannot be used: {in_short(error)}"
    if wanted.engine == "cupy":
        raise StartupError(f"engine: cupy cannot be used: {reason}; use numpy or auto")
    return NumpyEngine(wanted.threads), reason


def _numbers(devices: str, count: int) -> list[int]:
    if devices == "all":
        return list(range(count))
    numbers = sorted({int(number) for number in devices.split(",")})
    if numbers[-1] >= count:
        raise StartupError(f"devices: expected numbers of GPUs below {count}, received {devices!r}")
    return numbers


def _gpu_engine(
    numbers: list[int], wanted: EngineSettings, on_lost: Callable[[str], None]
) -> GpuEngine:
    """An engine over these GPUs, each of which has computed something."""
    budget = wanted.gpu_memory_bytes
    # Each alone at first, so that a GPU that cannot compute is found out.
    for number in numbers:
        trial = GpuEngine([CupyDevice(number, wanted.kernel_cache)], budget, _say_nothing)
        try:
            call = LossCall(grad_logits=True)
            logits = np.zeros((2, 3), np.float32)
            trial.compute([LossRequest(call, logits, 1, np.zeros(2, np.int64), "ids")])
        finally:
            trial.close()
    devices = [CupyDevice(number, wanted.kernel_cache) for number in numbers]
    return GpuEngine(devices, budget, on_lost, known=KnownKernels(wanted.kernel_cache))


def _say_nothing(_why: str) -> None:
    """Of a trial, the error says it."""
