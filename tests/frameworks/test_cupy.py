"""CuPy itself, as far as it goes without a GPU: that it has what the device is made of.

The device's own tests have a stand-in for it, which must not have what CuPy does not; launches are
for a machine with a GPU (`make gpu-test`).
"""

import struct
import types

import numpy as np
import pytest

from emulation import variants
from emulation.cubins import compile_cubin, section
from emulation.kernels import HOPPER as HOPPER_TRAITS
from losswire_server.engine import launches
from losswire_server.engine.cupy_engine import CupyDevice, find_gpus
from losswire_server.engine.device import DeviceLost
from losswire_server.engine.known_kernels import SOURCES
from stand_in_cupy import HOPPER, StandIn

cupy = pytest.importorskip("cupy")


@pytest.fixture
def device(monkeypatch, tmp_path):
    """One whose GPU is only said to be there; what CuPy compiles for it is noted."""
    monkeypatch.setattr(cupy.cuda.runtime, "getDeviceProperties", lambda _number: HOPPER)
    compiler, hopper = cupy.cuda.compiler, ("-arch=sm_90", "cubin")
    monkeypatch.setattr(compiler, "_get_arch_for_options_for_nvrtc", lambda _arch: hopper)
    return CupyDevice(0, tmp_path)


@pytest.fixture
def no_driver():
    if cupy.cuda.runtime.driverGetVersion():
        pytest.skip("there is a driver")


def names_of(stand_in, path):
    """What a stand-in has: dotted names, and what is there."""
    for name, value in vars(stand_in).items():
        yield f"{path}.{name}", value
        if isinstance(value, types.SimpleNamespace):
            yield from names_of(value, f"{path}.{name}")


NAMES = dict(names_of(StandIn().cuda, "cuda")) | {
    "cuda.function.Module.load": StandIn.module,
    "cuda.function.Module.get_function": StandIn.module,
    "cuda.Stream.null.ptr": StandIn.Stream.ptr,
    "cuda.Device.use": StandIn.note,
}


@pytest.mark.parametrize("path", NAMES)
def test_it_has_what_its_stand_in_has(path):
    """By name; what is called can be called, and what is caught is an error."""
    real = cupy
    for name in path.split("."):
        real = getattr(real, name)
    if isinstance(NAMES[path], type) and issubclass(NAMES[path], Exception):
        assert issubclass(real, Exception)
    elif callable(NAMES[path]):
        assert callable(real)


def test_its_errors_have_a_status():
    """By which what leaves the device usable is told from what does not."""
    assert cupy.cuda.runtime.CUDARuntimeError(719).status == 719
    assert issubclass(cupy.cuda.driver.CUDADriverError, RuntimeError)


@pytest.mark.usefixtures("no_driver")
def test_without_a_driver_it_says_so():
    """Nothing crashes, and the reason is a line."""
    assert find_gpus() == (0, "CuPy finds no CUDA driver")


@pytest.mark.usefixtures("no_driver")
def test_what_it_refuses_is_an_error_of_ours(device):
    """Here: to load a kernel where there is no driver."""
    with pytest.raises(DeviceLost, match="cudaErrorInsufficientDriver"):
        device.compile(kernel_of(1000))


def kernel_of(classes):
    request = variants.request_of("softmax", np.dtype(np.float32), classes)
    return launches.plan(request, 1, HOPPER_TRAITS, is_strided=False).kernel


@pytest.mark.parametrize("classes", [10, 300, 1000, 5000, 40_000, 1 << 20])
def test_it_compiles_what_the_tests_compile(device, classes):
    """The same instructions, by CuPy's compiler with all that it adds to our options."""
    kernel = kernel_of(classes)
    code = device._machine_code(kernel)
    ours = compile_cubin(SOURCES / kernel.source, dict(kernel.macros), "sm_90", kernel.entry)
    text = f".text.{kernel.entry}"
    # Its last byte is cut off, and is a zero: the program headers would end with it.
    (start,) = struct.unpack_from("<Q", code, 32)
    size, count = struct.unpack_from("<2H", code, 54)
    assert len(code) + 1 >= start + size * count
    assert section(code + b"\0", text) == section(ours.bytes, text)
