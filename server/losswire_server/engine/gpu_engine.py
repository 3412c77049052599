"""The GPU engine: one pipeline for each GPU, and batches for the one that has least to do.

In: a batch of validated requests. Out: their results, with the bits of each alone. Reductions are
the CPU's, as in every engine. What goes wrong on a GPU becomes the request's error here.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from losswire_server.engine import launches
from losswire_server.engine.device import DeviceError, DeviceLost, DeviceMemoryError
from losswire_server.engine.pipeline import CHUNK_BYTES, Pipeline
from losswire_server.engine.stacks import stacks
from losswire_server.engine.staging import Registered
from losswire_server.engine.tilings import MOST_CLASSES
from losswire_server.engine.works import result_of, work_of
from losswire_server.errors import DeviceFailed, Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from losswire_server.engine.device import Device
    from losswire_server.engine.known_kernels import KnownKernels
    from losswire_server.engine.pipeline import Kernels
    from losswire_server.requests import LossRequest, LossResult

BUDGET_SHARE: Final = 4
"""A GPU's memory through this is what is used of it, if nothing else is said."""

_RETRY_DELAY_MS: Final = 100
"""Memory that another process uses may come back."""


class GpuEngine:
    """Computes batches on GPUs.

    Args:
        devices: at least one.
        budget_bytes: of each device's memory; None for a share of it.
        on_lost: called once for each device that is lost, with why, on a thread of the engine's.
        kernels: which kernel computes what.
        known: kernels to be compiled before anything is computed.
        chunk_bytes: of a device's memory, for what one launch computes.
    """

    name = "cupy"
    quick_bytes = 0

    def __init__(
        self,
        devices: Sequence[Device],
        budget_bytes: int | None,
        on_lost: Callable[[str], None],
        *,
        kernels: Kernels | Any = launches,
        known: KnownKernels | None = None,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self._registered = Registered()
        self._pipelines: list[Pipeline] = []
        self._loads = [0] * len(devices)
        self._lock = threading.Lock()
        try:
            for device in devices:
                budget = budget_bytes or device.memory_bytes // BUDGET_SHARE
                pipeline = Pipeline(
                    device,
                    budget,
                    self._registered,
                    partial(_say, on_lost, device.name),
                    kernels=kernels,
                    known=known,
                    chunk_bytes=chunk_bytes,
                )
                self._pipelines.append(pipeline)
        except BaseException:
            self.close()
            raise

    @property
    def device(self) -> str:
        """The GPUs, by name."""
        return ", ".join(pipeline.device.name for pipeline in self._pipelines)

    @property
    def registrar(self) -> GpuEngine:
        """This engine: it copies from and to the memory of clients directly."""
        return self

    def compute(self, requests: Sequence[LossRequest]) -> list[LossResult]:
        """Computes one batch; the requests share a batch key.

        Raises:
            Overloaded: a row of it finds no memory on the GPU, or has more classes than kernels
                count.
            DeviceFailed: the GPU is lost.
        """
        if not requests:
            return []
        classes = requests[0].classes
        if classes > MOST_CLASSES and not requests[0].call.loss.is_elementwise:
            message = (
                f"logits: at most {MOST_CLASSES} classes on a GPU expected, {classes} received"
            )
            raise Overloaded(message, None)
        together = stacks(requests)
        works = [work_of(stack.whole) for stack in together]
        nbytes = sum(stack.whole.nbytes for stack in together)
        number = self._take(nbytes)
        try:
            self._pipelines[number].compute(works)
        except DeviceMemoryError as error:
            is_in_place = any(request.is_in_place for request in requests)
            delay = None if is_in_place else _RETRY_DELAY_MS
            raise Overloaded(f"logits: no memory on the GPU: {error}", delay) from error
        except DeviceLost as error:
            raise DeviceFailed(f"the GPU has failed, the server ends: {error}") from error
        finally:
            self._give_back(number, nbytes)
        results: dict[int, LossResult] = {}
        for stack, work in zip(together, works, strict=True):
            results.update(zip(stack.places, stack.results(result_of(work)), strict=True))
        return [results[place] for place in range(len(requests))]

    def register(self, address: int, nbytes: int) -> None:
        """Memory that lies where it lies until `unregister`: copied from and to directly.

        Where the driver does not take it, it is staged like any other. For any thread.
        """
        try:
            self._pipelines[0].device.register(address, nbytes)
        except DeviceError:
            return
        self._registered.add(address, nbytes)

    def unregister(self, address: int) -> None:
        """The same memory before it goes; nobody is using it."""
        if self._registered.remove(address):
            try:
                self._pipelines[0].device.unregister(address)
            except DeviceError:
                return  # the device is lost, or never knew of it

    def close(self) -> None:
        """Gives the GPUs' memory back; nothing may be computing."""
        for pipeline in self._pipelines:
            pipeline.close()

    def _take(self, nbytes: int) -> int:
        """The pipeline with the fewest bytes in flight, which now has these too."""
        with self._lock:
            number = min(range(len(self._loads)), key=self._loads.__getitem__)
            self._loads[number] += nbytes
            return number

    def _give_back(self, number: int, nbytes: int) -> None:
        with self._lock:
            self._loads[number] -= nbytes


def _say(on_lost: Callable[[str], None], name: str, error: DeviceLost) -> None:
    on_lost(f"{name}: {error}")
