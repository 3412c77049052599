"""The measurements on a GPU, on a machine that has none: kernels are played, times are nothing.

What stands for CuPy has what the benchmark uses of it, with CuPy's signatures.
"""

import ctypes
import json
import sys
import types

import numpy as np
import pytest
from benchmarks.turns import Contender, in_turns

from benchmarks import gpu, gpu_contenders
from emulation.kernels import compiled
from fake_device import FakeDevice
from losswire_server.engine import launches, tilings


class DeviceArray(np.ndarray):
    """Stands for CuPy's array, in this process's memory."""

    @property
    def data(self):
        return Pointer(self.ctypes.data, self.nbytes)

    def get(self):
        return np.array(self)


class Pointer:
    """Stands for CuPy's pointers to the device's memory and to pinned memory, which own it."""

    def __init__(self, address, nbytes, owner=None):
        self.ptr, self._nbytes, self._owner = address, nbytes, owner

    def copy_from_device_async(self, source, size):
        self._copy(self.ptr, source.ptr, size)

    def copy_from_host_async(self, source, size, _stream):
        self._copy(self.ptr, source, size)

    def copy_to_host_async(self, target, size, _stream):
        self._copy(target, self.ptr, size)

    def _copy(self, target, source, size):
        assert isinstance(target, int)
        assert isinstance(source, int)
        assert size <= self._nbytes
        ctypes.memmove(target, source, size)


class Stream:
    """Stands for CuPy's: all has happened when it returns."""

    def __init__(self, *, non_blocking=False):
        pass

    def synchronize(self):
        pass


class Event:
    """Stands for CuPy's."""

    def record(self, stream=None):
        pass

    def synchronize(self):
        pass


def allocated(nbytes):
    memory = np.zeros(max(1, nbytes), np.uint8)
    return Pointer(memory.ctypes.data, nbytes, memory)


CUPY = types.SimpleNamespace(
    asarray=lambda array: np.array(array).view(DeviceArray),
    empty=lambda shape, dtype: np.empty(shape, dtype).view(DeviceArray),
    empty_like=np.empty_like,
    cuda=types.SimpleNamespace(
        Event=Event,
        Stream=Stream,
        get_current_stream=Stream,
        get_elapsed_time=lambda _start, _stop: 2.0,
        alloc=allocated,
        alloc_pinned_memory=allocated,
    ),
)


def play(launch, arguments, memory):
    """Plays a kernel whose addresses are those of the fake device."""
    here = arguments.copy()
    for name in launches.ARGUMENTS.names:
        if launches.ARGUMENTS[name] == np.dtype("<u8") and arguments[name]:
            here[name] = memory.host_address(arguments[name])
    played(launch, here)


def played(launch, arguments):
    compiled(launch.kernel).launch(
        launch.grid, launch.block, launch.shared_bytes, arguments[()], launch.cluster
    )


class PlayedDevice(FakeDevice):
    """The fake device, which also launches in streams of what stands for CuPy."""

    def __init__(self, number):
        assert number == 0
        super().__init__(play)

    def launch(self, launch, arguments, stream):
        if isinstance(stream, Stream):
            played(launch, arguments)
        else:
            super().launch(launch, arguments, stream)


@pytest.fixture
def _played(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", CUPY)
    monkeypatch.setattr(gpu, "CupyDevice", PlayedDevice)
    monkeypatch.setattr(gpu, "find_gpus", lambda: (1, "found a fake"))
    monkeypatch.setattr(gpu, "_DTYPES", ("bfloat16",))
    monkeypatch.setattr(gpu, "_CLASSES", (10,))
    monkeypatch.setattr(gpu, "_DISTRIBUTION_CLASSES", (10,))
    monkeypatch.setattr(gpu, "around_thresholds", lambda: [32, 96])
    monkeypatch.setattr(gpu, "_SMALL", (3, 2, 1_000))
    monkeypatch.setattr(gpu_contenders, "LAUNCHES", 1)


@pytest.mark.usefixtures("_played")
def test_all_of_it_runs(tmp_path):
    """Every table is made, every answer of the kernels is right, and the figures are written."""
    file = tmp_path / "results" / "gpu.json"
    assert gpu.main(["--json", str(file), "--rounds", "1", "--megabytes", "0"]) == 0
    written = json.loads(file.read_text())
    assert written["about"]["packages"]["numpy"] == np.__version__
    rows = {table["title"]: table["rows"] for table in written["tables"]}
    assert list(rows) == [
        "bfloat16, 1 x 10, ids",
        "bfloat16, 1 x 10, distributions",
        "Tilings of bfloat16, 1 x 32",
        "Tilings of bfloat16, 1 x 96",
        "A call of 0 MiB in registered memory",
        "A call of 0 MiB in chunks",
        "3 requests of 2 x 1000",
    ]
    for title, each in rows.items():
        for row in each:
            is_rival = row["name"] in {*gpu.RIVALS, "PyTorch, compiled"}
            assert row["median"] is not None or (is_rival and row["note"]), (title, row)


@pytest.mark.usefixtures("_played")
def test_tilings_stand_beside_the_one_chosen():
    """The first is that of `plan`; the others are those that could."""
    data = gpu_contenders.OnDevice.put(CUPY, gpu._problem("bfloat16", 32, 0))
    names = [each.name for each in gpu_contenders.tilings(data, PlayedDevice(0))]
    assert names[0] == "THREAD_PER_ROW, 128 x 1 threads"
    assert names[1] == "LANES_PER_ROW, 128 x 1 threads"
    assert names[-1] == "TWO_READS, 512 x 1 threads"
    assert len(names) == 1 + len(tilings.TILINGS) + 1


def test_what_fails_of_others_is_a_note(monkeypatch):
    """Their compilers may; it is said in their row, and all other rows are made."""

    def fail():
        raise RuntimeError("no C compiler")

    monkeypatch.setattr(gpu_contenders, "_torch_module", fail)
    data = gpu_contenders.OnDevice.put(CUPY, gpu._problem("bfloat16", 32, 0))
    other = gpu_contenders.torch_compiled(data)
    measured = in_turns([other, Contender("ours", lambda: lambda: 1.0)], 1)
    assert measured[other.name].note == "fails: RuntimeError: no C compiler"
    assert not measured[other.name].is_wrong
    assert measured["ours"].median == 1.0


def test_every_threshold_is_measured():
    """At it, below and above, also where it is half as high."""
    sizes = gpu.around_thresholds()
    thresholds = (64, 2_048, 8_192, 16_384, 32_768, 65_536, 131_072, 262_144)
    assert {*thresholds, 32, 96, 3_072, 393_216} <= set(sizes)
