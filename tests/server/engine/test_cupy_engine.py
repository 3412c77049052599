"""What CuPy is asked for, and what becomes of its errors; with a stand-in for CuPy.

That CuPy does it is tried on a GPU (`make gpu-test`).
"""

import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from losswire_server.engine.cupy_engine import CupyDevice
from losswire_server.engine.device import DeviceLost, DeviceMemoryError, LaunchError
from losswire_server.engine.launches import ARGUMENTS, Kernel, Launch
from losswire_server.engine.tilings import Traits

KERNEL = Kernel("rows.cu", "losswire_rows", (("LOSS", '"cross_entropy.cuh"'), ("THREADS", "128")))
HOPPER = {"name": b"H100", "totalGlobalMem": 80 << 30, "major": 9, "minor": 0}
OLDER = HOPPER | {"name": b"A100", "major": 8}

NOTED = [
    "malloc", "free", "hostAlloc", "freeHost", "hostRegister", "hostUnregister", "eventRecord",
    "eventSynchronize", "streamWaitEvent", "memcpyAsync", "eventDestroy",
]  # fmt: skip


class CudaError(RuntimeError):
    """Stands for CuPy's two, which carry a cudaError_t."""

    def __init__(self, status):
        super().__init__(f"cudaError {status}")
        self.status = status


class CompileError(Exception):
    """Stands for NVRTC's."""


class StandIn:
    """A CuPy that notes its calls, and fails with the status that is set."""

    def __init__(self):
        self.calls, self.status, self.kernels, self.compiled = [], 0, [], []
        runtime = types.SimpleNamespace(
            **{name: self.noting(name) for name in NOTED},
            CUDARuntimeError=CudaError,
            eventCreateWithFlags=self.noting("eventCreateWithFlags", 77),
            eventQuery=lambda _event: self.status,
            deviceGetAttribute=lambda attribute, _number: {97: 227 << 10}[attribute],
            getDeviceProperties=lambda _number: HOPPER,
        )
        self.cuda = types.SimpleNamespace(
            runtime=runtime,
            driver=types.SimpleNamespace(CUDADriverError=CudaError),
            compiler=types.SimpleNamespace(
                CompileException=CompileError, compile_using_nvrtc=self.compile
            ),
            nvrtc=types.SimpleNamespace(getVersion=lambda: (13, 0)),
            Device=lambda number: types.SimpleNamespace(use=lambda: self.note("use", number)),
            Stream=self.Stream,
        )

    class Stream:
        """Stands for CuPy's."""

        ptr = 5

        def __init__(self, *, non_blocking):
            assert non_blocking

        def __enter__(self):
            return self

        def __exit__(self, *_error):
            pass

    def note(self, name, *arguments):
        self.calls.append((name, *arguments))
        if self.status:
            raise CudaError(self.status)

    def noting(self, name, answer=1 << 20):
        def call(*arguments):
            self.note(name, *arguments)
            return answer

        return call

    def compile(self, source, options):
        assert "extern" in source
        self.compiled.append(options)
        return b"machine code", None

    def RawModule(self, *, path):  # noqa: N802 -- CuPy's
        assert Path(path).read_bytes() == b"machine code"

        class RawKernel:
            def __call__(kernel, grid, block, arguments, *, shared_mem):  # noqa: N805 -- two selves
                self.note("launch", grid, block, arguments, shared_mem)

        def get_function(entry):
            self.kernels.append(RawKernel())
            self.note("load", entry)
            return self.kernels[-1]

        return types.SimpleNamespace(get_function=get_function)


@pytest.fixture
def cupy(monkeypatch, tmp_path):
    stand_in = StandIn()
    monkeypatch.setitem(sys.modules, "cupy", stand_in)
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "cupy"))
    return stand_in


def test_what_a_device_says_of_itself(cupy):
    """Name, memory, and what decides about geometry."""
    device = CupyDevice(3)
    assert (device.name, device.memory_bytes) == ("H100", 80 << 30)
    assert device.traits == Traits((9, 0), 227 << 10)
    device.attach()
    assert cupy.calls == [("use", 3)]


def test_copies_name_their_direction(cupy):
    """Target, source, bytes, direction and stream, in CUDA's order."""
    device = CupyDevice(0)
    stream = device.stream()
    device.upload(10, 20, 30, stream)
    device.download(40, 50, 60, stream)
    assert cupy.calls == [("memcpyAsync", 10, 20, 30, 1, 5), ("memcpyAsync", 40, 50, 60, 2, 5)]


def test_a_launch(cupy):
    """A kernel is compiled once; its argument is one record; much shared memory is asked for."""
    device = CupyDevice(0)
    stream, record = device.stream(), np.zeros((), ARGUMENTS)
    device.launch(Launch(KERNEL, 8, 128, 1024), record, stream)
    device.launch(Launch(KERNEL, 9, 128, 50 << 10), record, stream)
    assert [call[0] for call in cupy.calls] == ["load", "launch", "launch"]
    assert cupy.calls[1] == ("launch", (8,), (128,), (record,), 1024)
    assert cupy.kernels[0].max_dynamic_shared_size_bytes == 50 << 10
    [options] = cupy.compiled
    assert {'-DLOSS="cross_entropy.cuh"', "--std=c++17", "--fmad=false"} <= set(options)


def test_what_was_compiled_is_there_at_the_next_start(cupy, tmp_path, monkeypatch):
    """For the same kernel, sources, options, device and compiler; in the folder that is set."""
    folder = tmp_path / "ours"
    other = replace(KERNEL, macros=KERNEL.macros[:1])
    for kernel in (KERNEL, other, KERNEL):
        CupyDevice(0, folder).compile(kernel)
    assert len(cupy.compiled) == 2
    assert len(list(folder.iterdir())) == 2
    cupy.cuda.nvrtc.getVersion = lambda: (13, 1)
    CupyDevice(0, folder).compile(KERNEL)
    cupy.cuda.runtime.getDeviceProperties = lambda _number: OLDER
    CupyDevice(0, folder).compile(KERNEL)
    monkeypatch.setattr("losswire_server.engine.cubins.sources_digest", lambda: "others")
    CupyDevice(0, folder).compile(KERNEL)
    assert len(cupy.compiled) == len(list(folder.iterdir())) == 5
    CupyDevice(0).compile(KERNEL)
    assert len(list((tmp_path / "cupy").iterdir())) == 1


def test_a_folder_that_cannot_be_written_costs_time_alone(cupy, tmp_path):
    """What is compiled is kept until the process ends."""
    (tmp_path / "file").write_text("in the way")
    device = CupyDevice(0, tmp_path / "file" / "folder")
    device.compile(KERNEL)
    device.launch(Launch(KERNEL, 8, 128, 0), np.zeros((), ARGUMENTS), device.stream())
    assert [call[0] for call in cupy.calls] == ["load", "launch"]


@pytest.mark.parametrize(("status", "error"), [(2, DeviceMemoryError), (700, DeviceLost)])
@pytest.mark.parametrize("call", ["allocate", "pin", "attach"])
def test_errors_become_ours(cupy, status, error, call):
    """No memory is a matter of the request; a fault of the device is its end."""
    device = CupyDevice(0)
    cupy.status = status
    with pytest.raises(error, match=f"cudaError {status}"):
        getattr(device, call)(*([64] if call != "attach" else []))


@pytest.mark.parametrize(
    ("status", "error"), [(2, DeviceMemoryError), (701, LaunchError), (719, DeviceLost)]
)
def test_a_launch_may_be_refused(cupy, status, error):
    """Too many resources leave the device as it was; a fault does not."""
    device = CupyDevice(0)
    stream = device.stream()
    device.compile(KERNEL)
    cupy.status = status
    with pytest.raises(error):
        device.launch(Launch(KERNEL, 8, 128, 0), np.zeros((), ARGUMENTS), stream)


def test_a_kernel_that_does_not_compile_is_refused(cupy, monkeypatch):
    """NVRTC's words are passed on."""

    def fail(*_options):
        raise CompileError("rows.cu(3): error: expected a ;")

    monkeypatch.setattr(cupy.cuda.compiler, "compile_using_nvrtc", fail)
    with pytest.raises(LaunchError, match="expected a ;"):
        CupyDevice(0).compile(KERNEL)


def test_events_are_looked_at(cupy):
    """Reached, not yet, or the device is lost."""
    device = CupyDevice(0)
    event = device.event()
    assert device.is_reached(event)
    cupy.status = 600
    assert not device.is_reached(event)
    cupy.status = 719
    with pytest.raises(DeviceLost, match="719"):
        device.is_reached(event)


def test_memory_that_is_not_registered_is_no_loss(cupy):
    """Whatever the driver has against it, the request can be staged."""
    device = CupyDevice(0)
    cupy.status = 712
    with pytest.raises(DeviceMemoryError):
        device.register(4096, 4096)
