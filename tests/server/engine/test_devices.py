"""Several GPUs in one host: batches go where there is least to do."""

import threading

import numpy as np
import pytest

import fake_kernels
from batches import Common, bits, request_of
from fake_device import FakeDevice
from losswire_server.engine.device import DeviceLost, DeviceMemoryError
from losswire_server.engine.gpu_engine import GpuEngine
from losswire_server.errors import DeviceFailed

COMMON = Common("ids", np.dtype(np.float32), 5, grad_logits=True, grad_labels=False,
                class_weight=None)  # fmt: skip


def rows_of(count):
    return request_of(COMMON, np.random.default_rng(count), (count,), 1)


class Gate:
    """Kernels that wait until they are let go."""

    def __init__(self):
        self.entered, self.gate = threading.Semaphore(0), threading.Event()

    def run(self, *arguments):
        self.entered.release()
        assert self.gate.wait(30)
        fake_kernels.run(*arguments)


def test_batches_go_to_the_least_loaded():
    """A small batch goes to the GPU that the large one did not."""
    gates = [Gate(), Gate()]
    devices = [FakeDevice(gate.run) for gate in gates]
    engine = GpuEngine(devices, None, print, kernels=fake_kernels)
    large = threading.Thread(target=engine.compute, args=([rows_of(500)],))
    large.start()
    assert gates[0].entered.acquire(timeout=30)
    gates[1].gate.set()
    for _ in range(3):
        engine.compute([rows_of(5)])
    gates[0].gate.set()
    large.join(30)
    engine.compute([rows_of(5)])
    engine.close()
    assert [len(device.launches) for device in devices] == [2, 3]
    assert all(device.held == (0, 0, 0) for device in devices)


def test_all_devices_have_the_same_bits():
    """Which GPU computes shows in nothing."""
    devices = [FakeDevice(fake_kernels.run, seed=seed) for seed in range(3)]
    engines = [GpuEngine([each], None, print, kernels=fake_kernels) for each in devices]
    results = [bits(engine.compute([rows_of(9)])[0]) for engine in engines]
    for engine in engines:
        engine.close()
    assert results[0] == results[1] == results[2]


def test_the_device_is_named():
    """The engine says what it computes on."""
    devices = [FakeDevice(fake_kernels.run) for _ in range(2)]
    engine = GpuEngine(devices, None, print, kernels=fake_kernels)
    assert engine.device == "Fake GPU, Fake GPU"
    engine.close()


def test_a_lost_device_is_told_by_name():
    """Of several, the one that is lost."""
    told = []
    lost = {("launch", 1): DeviceLost("fell off the bus")}
    devices = [FakeDevice(fake_kernels.run, failures=lost), FakeDevice(fake_kernels.run)]
    engine = GpuEngine(devices, None, told.append, kernels=fake_kernels)
    with pytest.raises(DeviceFailed):
        engine.compute([rows_of(3)])
    engine.close()
    assert told == ["Fake GPU: fell off the bus"]


def test_a_device_that_cannot_begin_leaves_the_others_closed():
    """What was begun before it is given back."""
    devices = [
        FakeDevice(fake_kernels.run),
        FakeDevice(fake_kernels.run, failures={("stream", 1): DeviceMemoryError("none")}),
    ]
    with pytest.raises(DeviceMemoryError):
        GpuEngine(devices, None, print, kernels=fake_kernels)
    assert devices[0].calls["close"] == 1
