"""Which engine serves, and what is said about it."""

import re
import sys
import types

import pytest

import fake_kernels
from fake_device import FakeDevice
from gpu_found import found_gpu
from losswire_server.engine import selection
from losswire_server.engine.device import DeviceLost, DeviceMemoryError, LaunchError
from losswire_server.engine.gpu_engine import GpuEngine
from losswire_server.engine.selection import EngineSettings, choose_engine
from losswire_server.errors import StartupError


class CUDARuntimeError(RuntimeError):
    """Stands for CuPy's."""

    def __init__(self, words, status):
        super().__init__(words)
        self.status = status


@pytest.fixture
def fake_cupy(monkeypatch):
    """A CuPy that finds what the test says."""

    def install(count, driver=13000):
        def device_count():
            if isinstance(count, Exception):
                raise count
            return count

        runtime = types.SimpleNamespace(
            driverGetVersion=lambda: driver,
            getDeviceCount=device_count,
            getDeviceProperties=lambda _index: {"name": b"Imaginary GPU"},
            CUDARuntimeError=CUDARuntimeError,
        )
        cupy = types.SimpleNamespace(cuda=types.SimpleNamespace(runtime=runtime))
        monkeypatch.setitem(sys.modules, "cupy", cupy)

    return install


@pytest.fixture
def devices(monkeypatch):
    """Fake devices in the place of CuPy's; those that were made, by number, and how they fail."""
    made, failures, caches = [], {}, set()

    def make(number, kernel_cache):
        caches.add(kernel_cache)
        device = FakeDevice(fake_kernels.run, failures=failures.get(number))
        made.append((number, device))
        return device

    def engine(*arguments, **options):
        return GpuEngine(*arguments, **options, kernels=fake_kernels)

    monkeypatch.setattr(selection, "CupyDevice", make)
    monkeypatch.setattr(selection, "GpuEngine", engine)
    return types.SimpleNamespace(made=made, failures=failures, caches=caches)


def chosen(engine, **settings):
    return choose_engine(EngineSettings(engine, 1, **settings), print)


def test_numpy_when_asked_for():
    """NumPy needs no look for a GPU."""
    engine, reason = chosen("numpy")
    assert (engine.name, reason) == ("numpy", "asked for")
    engine.close()


@pytest.mark.parametrize(
    ("found", "driver", "words"),
    [
        (None, 0, "CuPy is not installed"),
        (1, 0, "CuPy finds no CUDA driver"),
        (0, 13000, "CuPy finds no GPU"),
        (CUDARuntimeError("no device", 100), 13000, "CuPy finds no GPU"),
        (CUDARuntimeError("version is insufficient", 35), 12000, "driver is too old.*insufficient"),
        (CUDARuntimeError("initialisation", 3), 13000, "no usable CUDA driver: initialisation"),
    ],
    ids=["no CuPy", "no driver", "no GPU", "no device", "old driver", "broken driver"],
)
def test_the_reason_is_said(fake_cupy, monkeypatch, found, driver, words):
    """auto serves with NumPy and says why; cupy is an error that says the same."""
    if found is None:
        monkeypatch.setitem(sys.modules, "cupy", None)
    else:
        fake_cupy(found, driver)
    engine, reason = chosen("auto")
    engine.close()
    assert engine.name == "numpy"
    with pytest.raises(StartupError, match=f"cupy cannot be used: .*{words}"):
        chosen("cupy")
    assert re.search(words, reason)


def test_a_home_that_cannot_be_written_is_no_crash(monkeypatch, tmp_path):
    """CuPy makes a folder when it is imported; where it may not, the reason says what to set."""
    (tmp_path / "cupy.py").write_text("raise PermissionError(13, 'Permission denied', '/nowhere')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    engine, reason = chosen("auto")
    engine.close()
    assert engine.name == "numpy"
    assert re.search(
        r"folder to write to, by CUPY_CACHE_DIR: .*Permission denied: '/nowhere'", reason
    )


def test_reasons_fit_a_line(fake_cupy, devices):
    """A compiler may fill a page; of that the beginning is said."""
    fake_cupy(1)
    devices.failures[0] = {("launch", 1): LaunchError("rows.cu(3):\n  error\n" * 1000)}
    engine, reason = chosen("auto")
    engine.close()
    assert re.search(r"cannot be used: .*rows.cu\(3\): error rows.cu", reason)
    assert len(reason) < 400


@pytest.mark.parametrize("wanted", ["auto", "cupy"])
def test_a_gpu_that_computes_is_used(fake_cupy, devices, wanted):
    """What has been tried serves; the trial leaves nothing behind."""
    fake_cupy(2)
    engine, reason = chosen(wanted)
    assert (engine.name, reason) == ("cupy", "found Imaginary GPU, Imaginary GPU")
    assert engine.device == "Fake GPU"
    engine.close()
    assert [number for number, _ in devices.made] == [0, 0]
    assert all(device.held == (0, 0, 0) for _, device in devices.made)


@pytest.mark.parametrize(
    ("text", "numbers"), [("0", [0]), ("2", [2]), ("2,0", [0, 2]), ("all", [0, 1, 2])]
)
def test_gpus_are_chosen_by_number(fake_cupy, devices, text, numbers):
    """One, several, or all of them."""
    fake_cupy(3)
    engine, _ = chosen("auto", devices=text)
    engine.close()
    assert [number for number, _ in devices.made] == numbers * 2


def test_all_keep_what_they_compile_in_the_folder_that_is_set(fake_cupy, devices, tmp_path):
    """Those that are tried at the start, too."""
    fake_cupy(2)
    engine, _ = chosen("auto", devices="all", kernel_cache=tmp_path)
    engine.close()
    assert devices.caches == {tmp_path}


def test_a_gpu_that_is_not_there_is_refused(fake_cupy, devices):
    """Whoever names a GPU means that one."""
    fake_cupy(2)
    for wanted in ("auto", "cupy"):
        with pytest.raises(StartupError, match=r"devices: expected numbers of GPUs below 2.*'0,2'"):
            chosen(wanted, devices="0,2")


@pytest.mark.parametrize("error", [LaunchError, DeviceMemoryError, DeviceLost])
def test_a_gpu_that_does_not_compute_is_not_used(fake_cupy, devices, error):
    """auto falls back and says why; cupy is an error that says the same."""
    fake_cupy(1)
    devices.failures[0] = {("launch", 1): error("no kernel image")}
    engine, reason = chosen("auto")
    engine.close()
    assert engine.name == "numpy"
    assert re.search("found Imaginary GPU, but it cannot be used: .*no kernel image", reason)
    with pytest.raises(StartupError, match=r"cupy cannot be used: .*no kernel image"):
        chosen("cupy")


@pytest.mark.gpu
def test_a_real_gpu_is_found_and_computes():
    """On a machine with a GPU and CuPy, it serves."""
    words = found_gpu()
    engine, reason = chosen("cupy")
    engine.close()
    assert reason == words
