"""What CuPy is asked for, and what becomes of its errors; with a stand-in for CuPy.

That CuPy does it is tried on a GPU (`make gpu-test`).
"""

import sys
from dataclasses import replace

import numpy as np
import pytest

from losswire_server.engine.cupy_engine import CupyDevice
from losswire_server.engine.device import DeviceLost, DeviceMemoryError, LaunchError
from losswire_server.engine.launches import ARGUMENTS, Kernel, Launch
from losswire_server.engine.tilings import Traits
from stand_in_cupy import HOPPER, CompileError, StandIn

KERNEL = Kernel("rows.cu", "losswire_rows", (("LOSS", '"cross_entropy.cuh"'), ("THREADS", "128")))
OLDER = HOPPER | {"name": b"A100", "major": 8}


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
    assert device.traits == Traits((9, 0), 132)
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
    """A kernel is compiled and loaded once; its argument is one record."""
    device = CupyDevice(0)
    stream, record = device.stream(), np.zeros((), ARGUMENTS)
    device.launch(Launch(KERNEL, 8, 128, 1024), record, stream)
    device.launch(Launch(KERNEL, 9, 128, 0), record, stream)
    assert cupy.calls == [
        ("load",),
        ("look up", "losswire_rows"),
        ("launch", (8,), (128,), (record,), 1024),
        ("launch", (9,), (128,), (record,), 0),
    ]
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


def test_a_folder_that_cannot_be_written_costs_time_alone(cupy, tmp_path, monkeypatch):
    """What is compiled is kept until the process ends, also where no file at all can be written."""
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    device = CupyDevice(0, tmp_path / "file" / "folder")
    device.compile(KERNEL)
    device.launch(Launch(KERNEL, 8, 128, 0), np.zeros((), ARGUMENTS), device.stream())
    assert [call[0] for call in cupy.calls] == ["load", "look up", "launch"]


@pytest.mark.parametrize("harm", ["short", "changed", "empty", "a folder"])
def test_what_was_kept_and_is_damaged_is_compiled_again(cupy, tmp_path, harm):
    """A driver that refused it would do so at every start; what is compiled anew is kept."""
    CupyDevice(0, tmp_path / "ours").compile(KERNEL)
    [file] = (tmp_path / "ours").iterdir()
    kept = file.read_bytes()
    if harm == "a folder":
        file.unlink()
        file.mkdir()
    else:
        short = {"short": kept[:-1], "empty": b""}
        file.write_bytes(short.get(harm, kept[:-1] + b"?"))
    CupyDevice(0, tmp_path / "ours").compile(KERNEL)
    assert len(cupy.compiled) == 2
    if harm != "a folder":
        assert file.read_bytes() == kept


@pytest.mark.parametrize("error", [RuntimeError("no libnvrtc.so.13"), OSError("no libnvrtc")])
def test_a_compiler_that_is_missing_is_no_crash(cupy, error):
    """It is an error of the device, which the selection of an engine says and goes on without."""

    def fail():
        raise error

    cupy.cuda.nvrtc.getVersion = fail
    with pytest.raises(LaunchError, match="NVRTC cannot be used: no libnvrtc"):
        CupyDevice(0)


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

    def fail(*_options, **_how):
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
