"""Threads of the NumPy engine: they keep to cores of their own, and no batch has them to itself."""

import contextlib
import os
import threading

import numpy as np
import pytest

from losswire_proto.losses import LossCall
from losswire_server.engine import numpy_engine, tiles
from losswire_server.engine.numpy_engine import NumpyEngine
from losswire_server.requests import LossRequest

CORES = os.sched_getaffinity(0)
ROWS = tiles.TILE_ELEMENTS // 1024 * max(2, len(CORES))


def computed(engine, rows=ROWS):
    """The result of a request with a tile for each core, or nearly."""
    logits = np.zeros((rows, 1024), np.float32)
    ids = np.zeros(rows, np.int64)
    return engine.compute([LossRequest(LossCall(), logits, 1, ids, "ids")])[0]


@pytest.fixture
def bound(monkeypatch):
    """The cores that threads were bound to, in order; they are, where it is allowed."""
    cores = []
    bind = os.sched_setaffinity

    def noted(pid, allowed):
        cores.append(set(allowed))
        with contextlib.suppress(OSError):
            bind(pid, allowed)

    monkeypatch.setattr(os, "sched_setaffinity", noted)
    return cores


def test_each_thread_has_a_core(bound):
    """None shares its core with another, and the caller's thread is not bound."""
    engine = NumpyEngine()
    computed(engine)
    engine.close()
    assert 1 <= len(bound) <= len(CORES)
    assert all(len(each) == 1 for each in bound)
    assert len(set().union(*bound)) == len(bound)
    assert set().union(*bound) <= CORES
    assert os.sched_getaffinity(0) == CORES


@pytest.mark.parametrize("threads", [1, len(CORES), len(CORES) + 1])
def test_threads_of_a_given_number_are_left_to_the_system(bound, threads):
    """Whoever says how many has others at work there."""
    engine = NumpyEngine(threads)
    computed(engine)
    engine.close()
    assert bound == []


def test_a_core_that_is_refused_stops_nothing(monkeypatch):
    """As under a policy that allows no binding."""

    def refuse(_pid, _cores):
        raise PermissionError("not allowed")

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    engine = NumpyEngine()
    np.testing.assert_allclose(computed(engine).per_example, np.log(1024), 1e-6)
    engine.close()


def test_a_batch_does_not_wait_for_the_one_before(monkeypatch):
    """While all threads are at a large one, the next is computed by its caller."""
    engine = NumpyEngine(threads=2)
    held, entered = threading.Event(), threading.Semaphore(0)
    compute_tile = numpy_engine._compute_tile

    def hold(tile, scratch):
        if tile[0].work.request.rows == ROWS:
            entered.release()
            assert held.wait(30)
        compute_tile(tile, scratch)

    monkeypatch.setattr(numpy_engine, "_compute_tile", hold)
    first = threading.Thread(target=computed, args=(engine,))
    first.start()
    assert all(entered.acquire(timeout=30) for _ in range(2))
    try:
        assert np.isfinite(computed(engine, ROWS - 1).per_example).all()
    finally:
        held.set()
    first.join()
    engine.close()
