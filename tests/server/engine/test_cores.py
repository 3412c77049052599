"""Threads of the NumPy engine keep to cores of their own, where there is one for each."""

import os
import threading

import numpy as np
import pytest

from losswire_proto.losses import LossCall
from losswire_server.engine import tiles
from losswire_server.engine.numpy_engine import NumpyEngine
from losswire_server.requests import LossRequest

CORES = os.sched_getaffinity(0)
ROWS = tiles.TILE_ELEMENTS // 1024 * len(CORES)


def computed(engine):
    """The result of a request with a tile for each core."""
    logits = np.zeros((ROWS, 1024), np.float32)
    ids = np.zeros(ROWS, np.int64)
    return engine.compute([LossRequest(LossCall(), logits, 1, ids, "ids")])[0]


def cores_of_threads(engine):
    """The cores that each of the engine's threads may run on, after it has computed."""
    before = set(threading.enumerate())
    computed(engine)
    started = set(threading.enumerate()) - before
    cores = [os.sched_getaffinity(thread.native_id) for thread in started]
    engine.close()
    return cores


def test_each_thread_has_a_core():
    """None shares its core with another, and nobody else's threads are bound."""
    cores = cores_of_threads(NumpyEngine())
    assert all(len(each) == 1 for each in cores)
    assert len(set().union(*cores)) == len(cores)
    assert set().union(*cores) <= CORES
    assert os.sched_getaffinity(0) == CORES


@pytest.mark.parametrize("threads", [1, len(CORES) + 1])
def test_threads_of_another_number_are_left_to_the_system(threads):
    """Whoever asks for fewer or more threads than cores has others at work there."""
    if threads == len(CORES):
        pytest.skip("a single core")
    assert all(each == CORES for each in cores_of_threads(NumpyEngine(threads)))


def test_a_core_that_is_refused_stops_nothing(monkeypatch):
    """As under a policy that allows no binding."""

    def refuse(_pid, _cores):
        raise PermissionError("not allowed")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    engine = NumpyEngine()
    np.testing.assert_allclose(computed(engine).per_example, np.log(1024), 1e-6)
    engine.close()
