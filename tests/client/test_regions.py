"""The client's pool of shared memory: what is used again, when, and what is never."""

import errno
import gc
import mmap
import os
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from losswire import _regions
from losswire._regions import MOST_REGIONS, SMALLEST, Region, Regions
from losswire_proto.v1 import loss_service_pb2 as pb

FLOAT = np.dtype(np.float32)
SHAPE = (300, 200)


@pytest.fixture
def regions():
    return Regions()


def address(array):
    return array.__array_interface__["data"][0]


def test_memory_is_used_again_when_the_last_view_is_gone(regions):
    """Another array lies where one was, but only once no view of that is left."""
    first = regions.empty(SHAPE, FLOAT)
    place, view = address(first), first[10:20].T.reshape(-1, order="F")[5:]
    del first
    second = regions.empty(SHAPE, FLOAT)
    assert address(second) != place
    del view
    third = regions.empty(SHAPE, FLOAT)
    assert address(third) == place
    assert not np.shares_memory(second, third)


def test_memory_is_kept_for_arrays_of_about_its_size(regions):
    """A region serves arrays that fill at least half of it; smaller ones get their own."""
    place = address(regions.empty((1 << 20,), FLOAT))
    assert address(regions.empty((1 << 19,), FLOAT)) == place
    assert address(regions.empty((1 << 18,), FLOAT)) != place
    assert address(regions.empty((1 << 20,), FLOAT)) == place
    assert address(regions.empty(((1 << 20) + 1,), FLOAT)) != place


@given(nbytes=st.integers(0, 1 << 62))
def test_capacities(nbytes):
    """A region holds its array and is larger by a quarter, or by the smallest region, at most."""
    capacity = _regions._rounded(nbytes)
    assert nbytes <= capacity <= nbytes + max(SMALLEST, nbytes // 4)
    assert capacity % SMALLEST == 0
    assert _regions._rounded(capacity) == capacity


def test_only_so_many_bytes_are_kept(regions, monkeypatch):
    """The oldest of the free regions go beyond the bytes that are kept, and are to be closed."""
    monkeypatch.setattr(_regions, "KEPT_BYTES", 3 * SMALLEST)
    arrays = [regions.empty((SMALLEST,), np.dtype(np.uint8)) for _ in range(5)]
    for number, array in enumerate(arrays):
        regions.announced(regions.find(array)[0], f"region {number}")
    del array
    while arrays:
        del arrays[0]
    regions.empty((10 * SMALLEST,), np.dtype(np.uint8))
    assert regions.closing() == ["region 0", "region 1"]
    assert regions.closing() == []


def test_only_so_many_regions_are_kept(regions, monkeypatch):
    """Nor are more free regions kept than so many: each takes file descriptors."""
    monkeypatch.setattr(_regions, "KEPT_REGIONS", 2)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 -- numbers
    arrays = [regions.empty(SHAPE, FLOAT) for _ in range(5)]
    each = (len(os.listdir("/proc/self/fd")) - before) // 5  # noqa: PTH208 -- numbers
    arrays.clear()
    kept = regions.empty(SHAPE, FLOAT)
    assert len(os.listdir("/proc/self/fd")) - before == 2 * each  # noqa: PTH208 -- numbers
    assert kept.size


def test_arrays_do_not_take_all_file_descriptors(regions):
    """Beyond a number of arrays there is no more room, until one of them is gone."""
    arrays = [regions.empty((1,), FLOAT) for _ in range(MOST_REGIONS)]
    with pytest.raises(OSError, match="too many arrays") as caught:
        regions.empty((1,), FLOAT)
    assert caught.value.errno == errno.EMFILE
    assert regions.is_crowded
    arrays.pop()
    assert regions.empty((1,), FLOAT).shape == (1,)
    arrays.clear()
    assert not regions.is_crowded


def test_what_must_not_be_used_again_is_not(regions):
    """Memory that somebody may still write to is given up with its array, and closed."""
    array = regions.empty(SHAPE, FLOAT)
    region, _ = regions.find(array)
    regions.announced(region, "spoilt")
    region.is_reusable = False
    del array
    other = regions.empty(SHAPE, FLOAT)
    assert regions.find(other)[0] is not region
    assert regions.closing() == ["spoilt"]


def test_closing_forgets_all(regions):
    """Free regions and those in use are closed, each once; arrays stay what they are."""
    kept, gone = (regions.empty(SHAPE, FLOAT) for _ in range(2))
    kept[...] = 7
    for name, array in (("kept", kept), ("gone", gone)):
        regions.announced(regions.find(array)[0], name)
    del array, gone
    assert sorted(set(regions.close())) == ["gone", "kept"]
    assert regions.close() == []
    assert (kept == 7).all()
    del regions
    gc.collect()
    assert (kept == 7).all()


def test_the_first_announcement_counts(regions):
    """Of two threads that announce a region the first names it; the other's name is closed."""
    array = regions.empty(SHAPE, FLOAT)
    region, _ = regions.find(array)
    assert regions.announced(region, "first") == "first"
    assert regions.announced(region, "second") == "first"
    assert regions.closing() == ["second"]


def test_where_views_lie(regions):
    """C-contiguous views are found at their offset; copies, strided ones and others are not."""
    array = regions.empty((4, 6, 8), FLOAT)
    region, start = regions.find(array)
    assert regions.find(array[1:]) == (region, start + 192)
    assert regions.find(array[2, 3]) == (region, start + 2 * 192 + 3 * 32)
    assert regions.find(array.reshape(-1)[10:11].view(np.int32)) == (region, start + 40)
    assert regions.find(array[4:])[0] is region
    assert regions.find(np.asarray(array)[...]) == (region, start)
    views = (array[:, 1:], array[::2], array.T, array[::-1], array.reshape(-1)[1:], array[0, 0, 1:])
    for elsewhere in (*views, array.copy(), np.zeros(3), np.frombuffer(bytes(8), np.uint8)):
        assert regions.find(elsewhere) is None


def test_clients_do_not_share_their_regions(regions):
    """A region has its name at one client's server: to another client it is memory like any."""
    assert Regions().find(regions.empty(SHAPE, FLOAT)) is None


def test_a_region_proves_itself(regions):
    """What is announced is this process's file, its size and the bytes that it begins with."""
    region, offset = regions.find(regions.empty(SHAPE, FLOAT))
    message = pb.OpenRegionRequest.FromString(region.announcement(None))
    assert message.process_file.pid == os.getpid()
    assert os.pread(message.process_file.fd, 32, 0) == message.proof
    assert len(message.proof) == 32
    assert os.fstat(message.process_file.fd).st_size == message.size_bytes == region.size
    assert offset % 4096 == 0
    with pytest.raises(PermissionError):
        os.ftruncate(message.process_file.fd, 1)


@pytest.mark.parametrize("function", ["ftruncate", "mmap"])
def test_memory_that_cannot_be_had(monkeypatch, function):
    """A region that fails half-way closes its file once: the number may be another's by then."""
    gc.collect()
    closed, close = [], os.close
    monkeypatch.setattr(os, "close", lambda fd: (closed.append(fd), close(fd)))

    def fail(*_arguments):
        raise OSError(errno.ENOMEM, "no memory")

    monkeypatch.setattr(os if function == "ftruncate" else mmap, function, fail)
    with pytest.raises(OSError, match="no memory"):
        Region(SMALLEST)
    gc.collect()
    assert len(closed) == 1


def test_arrays_may_end_at_any_moment(regions):
    """The last reference may go while the pool is locked, as a garbage collection would have it."""
    array = regions.empty(SHAPE, FLOAT)
    ended = threading.Event()

    def end(arrays):
        with regions._lock:
            arrays.clear()
        ended.set()

    thread = threading.Thread(target=end, args=([array],), daemon=True)
    del array
    thread.start()
    assert ended.wait(30)


def test_no_two_arrays_lie_in_one_region(regions):
    """Threads that make, keep and drop arrays never see each other's numbers."""
    switch, mixed = sys.getswitchinterval(), []

    def work(number):
        random = np.random.default_rng(number)
        mine = []
        for turn in range(300):
            if len(mine) < 4 and random.random() < 0.6:
                array = regions.empty((int(random.integers(1, 40_000)),), np.dtype(np.int64))
                array[...] = number * 1000 + turn
                mine.append((array, number * 1000 + turn))
            elif mine:
                array, value = mine.pop(int(random.integers(len(mine))))
                if not (array == value).all():
                    mixed.append(value)
            if turn % 50 == 0:
                regions.closing()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(switch)
    assert mixed == []
    assert len(regions._all) <= 6 * 4 + _regions.KEPT_REGIONS
