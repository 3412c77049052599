"""The GPU by way of CuPy: whether there is one and why not, and what the pipeline does with it.

The only module that imports CuPy, and the only one where its errors become ours. What it does is
tried by `make gpu-test`, on a machine that has a GPU.

An error of the driver that is not known to leave the device usable means that it is lost: a kernel
that faulted takes everything of this process on that device with it.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from losswire_server.engine.cubins import Cubins
from losswire_server.engine.device import (
    DeviceError,
    DeviceLost,
    DeviceMemoryError,
    LaunchError,
    Pinned,
)
from losswire_server.engine.known_kernels import SOURCES
from losswire_server.engine.launches import COMPILER_OPTIONS
from losswire_server.engine.tilings import Traits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from losswire_proto.dtypes import Array
    from losswire_server.engine.device import Event, Stream
    from losswire_server.engine.launches import Kernel, Launch

_NO_GPU: Final = "CuPy finds no GPU"
_LONGEST_REASON: Final = 300
"""Characters of others' own words."""

_NO_MEMORY: Final = 2
_NOT_READY: Final = 600
_REFUSED: Final = frozenset({1, 9, 98, 200, 209, 218, 221, 222, 223, 300, 500, 701, 801, 912})
"""cudaError_t of a kernel that cannot be loaded or started and leaves the device as it was: invalid
values, configurations, functions and images, what this driver does not have, more registers, shared
memory or blocks of a cluster than there are."""

_TO_DEVICE: Final = 1
_TO_HOST: Final = 2
_PORTABLE: Final = 1
"""Of pinned memory: for all devices, not only for the one at hand."""

_NON_BLOCKING: Final = 1
_WITHOUT_TIMES: Final = 2


def find_gpus() -> tuple[int, str]:
    """How many GPUs can be used; and in words what was found, or why there is none."""
    try:
        import cupy  # noqa: PLC0415 -- only here, and only when asked
    except ImportError as error:
        return 0, _why_not_imported(error)
    except OSError as error:
        # It makes a folder for what it compiles, in the home directory if it is told of no other.
        return 0, f"CuPy needs a folder to write to, by CUPY_CACHE_DIR: {in_short(error)}"
    runtime = cupy.cuda.runtime
    try:
        has_driver = bool(runtime.driverGetVersion())
        count = int(runtime.getDeviceCount()) if has_driver else 0
        names = [runtime.getDeviceProperties(each)["name"].decode() for each in range(count)]
    except runtime.CUDARuntimeError as error:
        return 0, _why_not_usable(error)
    if not has_driver:
        return 0, "CuPy finds no CUDA driver"
    return count, f"found {', '.join(names)}" if names else _NO_GPU


def _folder_of_cupy() -> Path:
    return Path(os.environ.get("CUPY_CACHE_DIR") or "~/.cupy/kernel_cache").expanduser()


def _why_not_imported(error: ImportError) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name in {None, "cupy"}:
        return "CuPy is not installed (pip install 'losswire[cuda13]' or '[cuda12]')"
    return f"CuPy cannot be imported: {in_short(error)}"


def in_short(error: Exception) -> str:
    """What an error says, on one line that can be read: a compiler's words may fill a page."""
    return " ".join(str(error).split())[:_LONGEST_REASON]


def _why_not_usable(error: Exception) -> str:
    match getattr(error, "status", None):
        case 35:  # cudaErrorInsufficientDriver
            return f"the CUDA driver is too old for this CuPy: {error}"
        case 100:  # cudaErrorNoDevice
            return _NO_GPU
        case _:
            return f"CuPy finds no usable CUDA driver: {error}"


class CupyDevice:
    """The GPU of a number; see `device.Device`. To be made where `find_gpus` has found it.

    Args:
        number: of the GPU.
        kernel_cache: where compiled kernels are kept; None for CuPy's own folder.
    """

    def __init__(self, number: int, kernel_cache: Path | None = None) -> None:
        import cupy  # noqa: PLC0415 -- as above

        self._cupy = cupy
        self._runtime = cupy.cuda.runtime
        self._number = number
        self._kernels: dict[Kernel, Any] = {}
        self._streams: list[Any] = []
        self._events: list[int] = []
        with self._ours():
            properties = self._runtime.getDeviceProperties(number)
            compiler = cupy.cuda.nvrtc.getVersion()  # the first that is asked of it, and loads it
        self.name: str = properties["name"].decode()
        self.memory_bytes = int(properties["totalGlobalMem"])
        capability = (int(properties["major"]), int(properties["minor"]))
        self.traits = Traits(capability, int(properties["multiProcessorCount"]))
        made_by = f"{capability}, NVRTC {compiler}"
        self._cubins = Cubins(kernel_cache or _folder_of_cupy(), made_by)

    def attach(self) -> None:
        """Makes it the device of the calling thread."""
        with self._ours():
            self._cupy.cuda.Device(self._number).use()

    def allocate(self, nbytes: int) -> int:
        """Memory of the device, aligned to 256 bytes."""
        with self._ours():
            return int(self._runtime.malloc(nbytes))

    def free(self, address: int) -> None:
        """Gives it back."""
        with self._ours():
            self._runtime.free(address)

    def pin(self, nbytes: int) -> Pinned:
        """Pinned memory of the host."""
        with self._ours():
            address = int(self._runtime.hostAlloc(nbytes, _PORTABLE))
        memory = (ctypes.c_ubyte * nbytes).from_address(address)
        return Pinned(address, np.ctypeslib.as_array(memory))

    def unpin(self, pinned: Pinned) -> None:
        """Gives it back."""
        with self._ours():
            self._runtime.freeHost(pinned.address)

    def register(self, address: int, nbytes: int) -> None:
        """Pins memory of the host that is there already, for all devices."""
        try:
            self._cupy.cuda.Device(self._number).use()
            self._runtime.hostRegister(address, nbytes, _PORTABLE)
        except self._runtime.CUDARuntimeError as error:
            # Also where the device is lost: whoever computes next will find that out.
            raise DeviceMemoryError(str(error)) from error

    def unregister(self, address: int) -> None:
        """Takes that back, before the memory goes."""
        with self._ours():
            self._cupy.cuda.Device(self._number).use()
            self._runtime.hostUnregister(address)

    def stream(self) -> Stream:
        """A queue of work that waits for no other."""
        with self._ours():
            self._streams.append(self._cupy.cuda.Stream(non_blocking=True))
        return self._streams[-1]

    def event(self) -> Event:
        """A mark that can be recorded in a stream, again and again."""
        with self._ours():
            self._events.append(int(self._runtime.eventCreateWithFlags(_WITHOUT_TIMES)))
        return self._events[-1]

    def record(self, event: Event, stream: Stream) -> None:
        """Marks what the stream has been given so far."""
        with self._ours():
            self._runtime.eventRecord(event, stream.ptr)

    def wait(self, stream: Stream, event: Event) -> None:
        """Keeps what the stream is given from now on until the mark has been reached."""
        with self._ours():
            self._runtime.streamWaitEvent(stream.ptr, event)

    def synchronise(self, event: Event) -> None:
        """Waits, here, until the mark has been reached."""
        with self._ours():
            self._runtime.eventSynchronize(event)

    def is_reached(self, event: Event) -> bool:
        """Whether the mark has been reached."""
        status = int(self._runtime.eventQuery(event))
        if status not in {0, _NOT_READY}:
            raise DeviceLost(str(self._runtime.CUDARuntimeError(status)))
        return not status

    def upload(self, target: int, source: int, nbytes: int, stream: Stream) -> None:
        """Copies from the host to the device."""
        with self._ours():
            self._runtime.memcpyAsync(target, source, nbytes, _TO_DEVICE, stream.ptr)

    def download(self, target: int, source: int, nbytes: int, stream: Stream) -> None:
        """Copies from the device to the host."""
        with self._ours():
            self._runtime.memcpyAsync(target, source, nbytes, _TO_HOST, stream.ptr)

    def compile(self, kernel: Kernel) -> None:
        """Compiles a kernel now rather than at its first launch."""
        self._compiled(kernel)

    def launch(self, launch: Launch, arguments: Array, stream: Stream) -> None:
        """Starts a kernel, with a record of `launches.ARGUMENTS` as its argument."""
        kernel = self._compiled(launch.kernel)
        with self._ours(refused=LaunchError), stream:
            # A NumPy array of one element is passed by value.
            kernel((launch.grid,), (launch.block,), (arguments,), shared_mem=launch.shared_bytes)

    def close(self) -> None:
        """Lets streams, events and kernels go."""
        with self._ours():
            for event in self._events:
                self._runtime.eventDestroy(event)
        self._events.clear()
        self._streams.clear()  # CuPy's own, which end with their last reference
        self._kernels.clear()

    def _compiled(self, kernel: Kernel) -> Any:
        if kernel not in self._kernels:
            with self._ours(refused=LaunchError):
                module = self._cupy.cuda.function.Module()
                # From memory: CuPy's compiler cuts off the last byte, a zero, which Python's own
                # zero after all bytes makes good. In a file nothing would.
                module.load(self._cubins.code(kernel, self._machine_code))
                self._kernels[kernel] = module.get_function(kernel.entry)
        return self._kernels[kernel]

    def _machine_code(self, kernel: Kernel) -> bytes:
        options = [*COMPILER_OPTIONS, f"-I{SOURCES}"]
        options += [f"-D{name}={value}" for name, value in kernel.macros]
        source = (SOURCES / kernel.source).read_text(encoding="utf-8")
        # For the thread's device. What RawModule compiles by itself would take numbers below 2^-126
        # for 0: it adds -ftz=true, whatever it is told.
        compile_it = self._cupy.cuda.compiler.compile_using_nvrtc
        code, _ = compile_it(source, tuple(options), cache_in_memory=True)  # without files
        return bytes(code)

    @contextmanager
    def _ours(self, refused: type[DeviceError] = DeviceLost) -> Iterator[None]:
        """Turns CuPy's errors into ours; `refused` is for what leaves the device usable."""
        cuda = self._cupy.cuda
        try:
            yield
        except (self._runtime.CUDARuntimeError, cuda.driver.CUDADriverError) as error:
            if error.status == _NO_MEMORY:
                raise DeviceMemoryError(str(error)) from error
            ours = refused if error.status in _REFUSED else DeviceLost
            raise ours(str(error)) from error
        except cuda.compiler.CompileException as error:
            raise LaunchError(str(error)) from error
        except (OSError, RuntimeError) as error:  # a compiler that is missing, or fails by itself
            raise LaunchError(f"NVRTC cannot be used: {in_short(error)}") from error
