"""Shared memory in forked children, and at the end of the interpreter."""

import multiprocessing
import subprocess
import sys
import threading

import numpy as np
import pytest

import losswire
from anyloss import bits, large
from losswire import _shared
from losswire._regions import Region
from shared_memory import is_in_region, laid_out

EXITING = """
import sys, types
sys.modules["holder"] = holder = types.ModuleType("holder")  # torn down after what comes later
import numpy as np
import losswire
client = losswire.Client(sys.argv[1], transport="shared")
logits = client.empty((700, 500))
logits[...] = 1
holder.result = client.softmax_cross_entropy(logits, np.zeros(700, np.int64))
holder.view = client.empty((700, 500))[3:].T
class Last:
    def __del__(self):
        self.cycle = None
last = Last()
last.cycle = [last, client.softmax(logits)]
if sys.argv[2] == "closed":
    client.close()
"""


@pytest.fixture
def client(server):
    with losswire.Client(server.target, transport="shared") as connected:
        yield connected


class Child:
    """A forked child that does something with what it inherits, when it is told to."""

    def __init__(self, action, *arguments):
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        run, given = self._run, (theirs, action, arguments)
        self._process = context.Process(target=run, args=given, daemon=True)
        self._process.start()
        theirs.close()

    def _run(self, pipe, action, arguments):
        pipe.recv()
        pipe.send(action(*arguments))

    def answer(self):
        """What its action returned."""
        self._pipe.send("go")
        if not self._pipe.poll(30):
            self._process.kill()
            raise AssertionError("the child hangs")
        answer = self._pipe.recv()
        self._process.join()
        assert self._process.exitcode == 0
        return answer


def test_a_child_keeps_what_it_inherits(client):
    """Arrays and results stay what they were, though the parent drops its own and goes on."""
    logits, ids, _ = large(np.float32)
    array = laid_out(client, logits, "region")
    result = client.softmax_cross_entropy(array, ids)
    expected = bits(result), array.tobytes()
    child = Child(lambda: (bits(result), array.tobytes()))
    array = result = None
    others = [client.empty(logits.shape) for _ in range(5)]
    for each in others:
        each[...] = 7
    client.softmax_cross_entropy(logits + 1, ids)
    assert child.answer() == expected


def test_a_child_makes_memory_of_its_own(client):
    """Calls in a child are right, touch nothing of the parent's, and copy what they inherit."""
    logits, ids, _ = large(np.float32)
    array = laid_out(client, logits, "region")
    result = client.softmax_cross_entropy(array, ids)
    expected = bits(result)
    free = laid_out(client, logits, "region")
    del free

    def play():
        inherited = is_in_region(client, array)
        own = client.empty(logits.shape)
        own[...] = 7
        mine = client.softmax_cross_entropy(array, ids)
        right = bits(mine) == expected and is_in_region(client, mine.grad_logits)
        mine.grad_logits[...] = 7
        return inherited, right, is_in_region(client, own)

    child = Child(play)
    later = laid_out(client, logits, "region")
    assert child.answer() == (False, True, True)
    assert bits(result) == expected
    assert np.array_equal(later, logits)
    assert np.array_equal(array, logits)


def test_a_child_that_closes_the_client(client, monkeypatch):
    """The parent's regions stay open: it need not announce them again."""
    logits, ids, _ = large(np.float32)
    array = laid_out(client, logits, "region")
    expected = bits(client.softmax_cross_entropy(array, ids, gradients=False))
    assert Child(client.close).answer() is None
    announced = []
    monkeypatch.setattr(Region, "announcement", lambda region: announced.append(region) or b"")
    assert bits(client.softmax_cross_entropy(array, ids, gradients=False)) == expected
    assert announced == []


def test_a_fork_while_another_thread_is_at_the_regions(client):
    """A lock that was held at the fork, by a thread that the child has not, stops no child."""
    logits, ids, _ = large(np.float32)
    expected = bits(client.softmax_cross_entropy(logits, ids))
    held, release = threading.Event(), threading.Event()

    def hold():
        with client._paths.shared.regions._lock:
            held.set()
            assert release.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(30)

    def play():
        right = bits(client.softmax_cross_entropy(logits, ids)) == expected
        client.close()
        return right

    children = [Child(play), Child(client.close)]
    release.set()
    thread.join()
    assert [child.answer() for child in children] == [True, None]


@pytest.mark.parametrize("how", ["closed", "open"])
def test_the_end_of_the_interpreter(server, how):
    """Arrays, results and clients that live to the end say nothing, and keep nothing waiting."""
    command = [sys.executable, "-W", "error", "-c", EXITING, server.target, how]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_platform_without_such_memory(server, monkeypatch):
    """Where there is no memfd arrays are ordinary ones, and shared is a clear error."""
    monkeypatch.setattr(_shared._regions, "IS_POSSIBLE", False)
    logits, ids, _ = large(np.float32)
    with losswire.Client(server.target, transport="shared") as client:
        assert not is_in_region(client, client.empty(logits.shape))
        with pytest.raises(losswire.InvalidInput, match="this platform has no memfd"):
            client.softmax_cross_entropy(logits, ids)


def test_empty_is_like_numpys(client):
    """Any shape and dtype that NumPy takes; what is none is refused, what is too large is not."""
    for shape in (3, (), (0,), [2, 3], (np.int8(4),), (1 << 20,)):
        expected = np.empty(shape)
        for dtype in ("f4", np.float64, ">i2", np.bool_, "U3", object, [("a", "f4"), ("b", "O")]):
            made = client.empty(shape, dtype)
            assert (made.shape, made.dtype) == (expected.shape, np.dtype(dtype))
            assert made.flags.writeable
    for shape, dtype in ((-1, "f4"), ((2, -3), "f4"), ("x", "f4"), (3, "no dtype"), (2.5, "f4")):
        with pytest.raises(losswire.InvalidInput, match="shape, dtype: expected lengths >= 0"):
            client.empty(shape, dtype)
    with pytest.raises(MemoryError):
        client.empty((1 << 50,), np.float64)
