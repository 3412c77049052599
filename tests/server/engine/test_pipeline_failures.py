"""What a device cannot do: who is told, what is left behind, and what comes after."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fake_kernels
from batches import bits, request_of
from fake_device import FakeDevice
from losswire_proto.losses import LossCall
from losswire_server.engine.device import DeviceLost, DeviceMemoryError, LaunchError
from losswire_server.engine.pipeline import SLOTS
from losswire_server.errors import DeviceFailed, Overloaded
from losswire_server.requests import LossRequest
from pipelines import FLOATS32, alone, fake, rows_of, running

OPERATIONS = ("allocate", "pin", "upload", "download", "launch", "record", "wait", "is_reached",
              "event", "synchronise")  # fmt: skip


@pytest.mark.parametrize("operation", ["allocate", "pin"])
def test_a_row_that_finds_no_memory_is_refused(operation):
    """A row for which there is no memory fails its request alone, with a retry delay."""
    refusals = {(operation, call): DeviceMemoryError("none left") for call in range(1, 30)}
    device = fake(failures=refusals)
    request = rows_of(9)
    with running(device) as engine:
        with pytest.raises(Overloaded, match="no memory on the GPU: none left") as refused:
            engine.compute([request])
        assert refused.value.retry_delay_ms > 0
        device.failures.clear()
        assert bits(engine.compute([request])[0]) == alone(request)


def test_a_row_beyond_the_budget_is_refused():
    """The message names what is needed and the setting that does not allow it."""
    common = replace(FLOATS32, classes=128_000)
    request = request_of(common, np.random.default_rng(0), (1,), 1)
    message = r"51\d+ bytes are needed.*1024 are allowed.*gpu_memory"
    with running(fake(), budget=SLOTS << 10) as engine, pytest.raises(Overloaded, match=message):
        engine.compute([request])


def test_more_classes_than_kernels_count_are_refused():
    """Before anything of them is looked at; what comes after is computed."""
    logits = np.broadcast_to(np.float16(0), (1, 1 << 31))
    endless = LossRequest(LossCall(grad_logits=True), logits, 1, np.zeros(1, np.int64), "ids")
    request = rows_of(9)
    with running(fake()) as engine:
        with pytest.raises(Overloaded, match=r"at most 2147467264 classes .* 2147483648 received"):
            engine.compute([endless])
        assert bits(engine.compute([request])[0]) == alone(request)


def test_a_device_that_fails_at_the_start_leaves_no_thread():
    """While its slots are made: the second event of the first one."""
    before = threading.enumerate()
    device = fake(failures={("event", 2): DeviceLost("gone")})
    with pytest.raises(DeviceLost, match="gone"), running(device):
        pass
    assert threading.enumerate() == before


def test_a_launch_that_fails_is_an_engine_fault():
    """The batch fails, what was in flight lands first, and the next batch is computed."""
    device = fake(failures={("launch", 3): LaunchError("too many resources requested")})
    request = rows_of(100)
    with running(device, chunk_bytes=2000) as engine:
        with pytest.raises(LaunchError, match="too many"):
            engine.compute([request])
        assert bits(engine.compute([request])[0]) == alone(request)


def test_a_lost_device_fails_everything():
    """Its request, those that wait, and all that come later; the loss is told once."""
    told = []
    device = fake(failures={("is_reached", 9): DeviceLost("fell off the bus")})
    with running(device, chunk_bytes=700, told=told) as engine:
        failures = []

        def compute():
            try:
                while True:
                    engine.compute([rows_of(50)])
            except DeviceFailed as error:
                failures.append(str(error))

        threads = [threading.Thread(target=compute) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(failures) == 6
        assert all("fell off the bus" in failure for failure in failures)
        with pytest.raises(DeviceFailed, match="the server ends"):
            engine.compute([rows_of(1)])
    assert told == ["Fake GPU: fell off the bus"]


@settings(max_examples=80, deadline=None)
@given(
    operation=st.sampled_from(OPERATIONS),
    call=st.integers(1, 40),
    error=st.sampled_from([DeviceMemoryError, LaunchError, DeviceLost]),
    seed=st.integers(0, 1 << 16),
)
def test_no_failure_leaves_anything_behind(operation, call, error, seed):
    """Whatever fails, and when: right or an error, all slots back, and the next request right."""
    told = []
    device = fake(seed=seed, failures={(operation, call): error("injected")})
    requests = [rows_of(count, count) for count in (30, 60)]
    try:
        with running(device, chunk_bytes=700, told=told) as engine:
            for _ in range(3):
                try:
                    results = engine.compute(requests)
                except (Overloaded, LaunchError, DeviceFailed):
                    continue
                assert [bits(result) for result in results] == [alone(each) for each in requests]
            assert engine._pipelines[0].free_slots == SLOTS
            device.failures.clear()
            if not told:
                [result] = engine.compute([requests[0]])
                assert bits(result) == alone(requests[0])
            assert not device.is_lost or told
    except (DeviceMemoryError, LaunchError, DeviceLost):
        assert device.calls["launch"] == 0  # it failed to start


def test_ids_that_change_under_the_engine_are_a_fault():
    """What was validated and then changed is found by the kernel, and the row is named."""

    def run(launch, arguments, memory):
        fake_kernels.run(launch, arguments, memory)
        if arguments["rows"] == 7:
            memory.array(arguments["fault"], np.uint64, 1)[0] = 5

    with running(FakeDevice(run), chunk_bytes=1) as engine:
        assert engine.compute([rows_of(8)])
    with (
        running(FakeDevice(run)) as engine,
        pytest.raises(RuntimeError, match="row 1 changed under"),
    ):
        engine.compute([rows_of(4), rows_of(3)])


def test_idle_memory_is_given_up():
    """A row that fits only where no other slot holds memory gets it."""
    common = replace(FLOATS32, classes=400_000)
    row = request_of(common, np.random.default_rng(0), (1,), 1)
    device = fake(memory_bytes=SLOTS << 20, after_launches=SLOTS)
    with running(device, chunk_bytes=700) as engine:
        engine.compute([rows_of(100)])
        assert device.held[0] == SLOTS
        assert bits(engine.compute([row])[0]) == alone(row)
