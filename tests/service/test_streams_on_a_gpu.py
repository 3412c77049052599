"""Blocks of a stream flow through the GPU's pipeline, as calls of one message do."""

import numpy as np
import pytest

import fake_kernels
import losswire
from fake_device import FakeDevice
from gpu_served import LAUNCHES_OF_WARM_UP, GpuServer, failing_at_launch
from losswire import _stream
from losswire_server.engine.device import DeviceLost, DeviceMemoryError
from losswire_server.engine.pipeline import SLOTS

BLOCK_BYTES = 4_000
CLASSES = 50
ROWS = 400
RANDOM = np.random.default_rng(3)
LOGITS = RANDOM.standard_normal((ROWS, CLASSES)).astype(np.float32)
IDS = RANDOM.integers(0, CLASSES, ROWS)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(_stream, "BLOCK_BYTES", BLOCK_BYTES)


@pytest.fixture
def serve(monkeypatch):
    """Starts servers over fake GPUs; those that a test has not seen end are ended."""
    started = []

    def start(device, budget=None):
        started.append(GpuServer(monkeypatch, device, budget))
        return started[-1]

    yield start
    for server in started:
        if server.ended is None:
            server.stop()
            assert server.device.violations == []
            assert server.device.held == (0, 0, 0)


def call(server, transport):
    with losswire.Client(server.target, transport=transport, retries=False) as client:
        return client.softmax_cross_entropy(LOGITS, IDS, reduction="mean")


def bits(result):
    arrays = (result.loss, result.per_example, result.grad_logits)
    return [(each.dtype, each.shape, each.tobytes()) for each in arrays]


def test_a_stream_has_the_bits_of_one_message(serve):
    """In many launches, where one message is one, and without touching the device otherwise."""
    server = serve(FakeDevice(fake_kernels.run, seed=1))
    whole = bits(call(server, "inline"))
    before = len(server.device.launches)
    assert bits(call(server, "stream")) == whole
    launched = server.device.launches[before:]
    assert sum(int(arguments["rows"]) for _, arguments in launched) == ROWS
    assert len(launched) > 1


def test_a_stream_stays_within_the_budget(serve):
    """Of a device that has more, though all blocks together are many times as much."""
    budget = SLOTS * 6_000
    server = serve(FakeDevice(fake_kernels.run), budget)
    result = call(server, "stream")
    assert budget * 3 < LOGITS.nbytes
    assert 0 < server.device.most_bytes <= budget
    assert bits(result) == bits(call(serve(FakeDevice(fake_kernels.run)), "inline"))


def test_a_stream_that_finds_no_memory_is_refused(serve):
    """Half-way: RESOURCE_EXHAUSTED for this stream; the next one is computed."""
    launch = LAUNCHES_OF_WARM_UP + 3
    refused = {("launch", number): DeviceMemoryError("none left") for number in range(launch, 999)}
    server = serve(FakeDevice(fake_kernels.run, failures=refused))
    with pytest.raises(losswire.ServerBusy, match="no memory on the GPU: none left") as busy:
        call(server, "stream")
    assert busy.value.code.name == "RESOURCE_EXHAUSTED"
    assert server.device.calls["launch"] > launch
    server.device.failures.clear()
    assert bits(call(server, "stream")) == bits(call(server, "inline"))
    assert server.engine._pipelines[0].free_slots == SLOTS


def test_a_stream_whose_gpu_is_lost_is_told(serve):
    """Half-way: UNAVAILABLE for this stream, and the server ends."""
    server = serve(failing_at_launch(3, DeviceLost("fell off the bus")))
    with pytest.raises(losswire.ServerUnavailable, match=r"GPU has failed.*fell off the bus"):
        call(server, "stream")
    assert "fell off the bus" in str(server.join())
