"""The checks of long runs find what they are for: each promise, broken, is told."""

import copy
import gc
import json
import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from benchmarks.soak import __main__ as command
from benchmarks.soak import overload, promises
from benchmarks.soak.answers import Question
from benchmarks.soak.footprint import Footprint
from benchmarks.soak.traffic import DTYPES, LOSSES, WAYS, Tally, _Call, _counted
from benchmarks.soak.watched import InUse, WatchedServer

import losswire
from losswire_server.engine.numpy_engine import NumpyEngine

DOCUMENTED = {"ServerBusy", "ServerUnavailable", "DeadlineExceeded"}

GOOD = {
    "faults": {
        "right": 9, "told": 1, "lost": 0, "wrong": 0, "incidents": 0,
        "messages": ["streamed, lost: why"], "faults": {"drop": 1, "reset": 1},
    },
    "overload": {
        "more calls": {
            "wrong": 0, "goodput_ratio": 0.9, "p99_seconds": 1.0, "p99_bound_seconds": 1.0,
            "growth": 0.02, "drift": {"heap_bytes": -0.02},
        }
    },
    "soak": {
        "right": 9, "told": 1, "lost": 0, "wrong": 0, "incidents": 0, "messages": [],
        "faults": {"drop": 1},
        "servers": {"tcp": {"drift": {"heap_bytes": 0.02}, "leaks": {}}},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def engine():
    made = NumpyEngine(threads=1)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        ("faults lost", 1, "faults: 1 lost; streamed, lost: why"),
        ("faults wrong", 1, "faults: 1 wrong"),
        ("faults incidents", 2, "faults: 2 incidents"),
        ("faults right", 0, "no right answer"),
        ("faults faults drop", 0, "no fault of kind drop"),
        ("soak servers tcp leaks", {"files": 1}, "tcp: 1 files leaked"),
        ("soak servers tcp drift heap_bytes", 0.021, "tcp: heap_bytes in use differ by +2.1%"),
        ("overload:more calls:wrong", 1, "1 wrong"),
        ("overload:more calls:goodput_ratio", 0.89, "goodput is 0.89 of the peak"),
        ("overload:more calls:p99_seconds", 1.1, "99th percentile"),
        ("overload:more calls:growth", 0.03, "memory grew by 3.0%"),
        ("overload:more calls:drift:heap_bytes", -0.03, "heap_bytes in use differ by -3.0%"),
    ],
)
def test_a_broken_promise_is_told(path, value, line):
    """One figure that is not what it should be gives one line; figures at the limits none."""
    assert promises.broken(GOOD) == []
    figures = copy.deepcopy(GOOD)
    *parents, name = path.split(":") if ":" in path else path.split()
    place = figures
    for parent in parents:
        place = place[parent]
    place[name] = value
    (told,) = promises.broken(figures)
    assert line in told


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", LOSSES)
def test_one_wrong_bit_is_found(client, engine, loss, dtype):
    """A server's answer has the expected bits; with one of them turned over it is wrong."""
    question = Question.make(loss, (6, 5), dtype, 7, engine)
    result = question.problem.call(client)
    assert question.difference(result) == ""
    name = "output" if loss.endswith("softmax") else "grad_logits"
    array = result if name == "output" else result.grad_logits
    array.view("uint8")[3, 1] ^= 1
    assert question.difference(result) == name


def test_outcomes_of_calls(engine):
    """Errors are lost calls, but for those that a caller is told of, as documented."""
    ways = {way.name: way for way in WAYS}
    question = Question.make("softmax", (2, 3), "float32", 1, engine)
    cut, late = losswire.ServerUnavailable("cut"), losswire.DeadlineExceeded("late")
    tally = Tally()
    for name, error in [
        ("streamed", cut),
        ("shared memory, overwritten", cut),
        ("shared memory, overwritten", late),
    ]:
        tally.add(_counted([_Call(ways[name], question, question.problem.logits)], [error]))
    assert tally.as_json() == {
        "streamed": {"lost": 1},
        "shared memory, overwritten": {"told": 1, "lost": 1},
    }
    assert [message.partition(":")[0] for message in tally.messages] == [
        "streamed, lost", "shared memory, overwritten, lost",
    ]  # fmt: skip


def test_leaks_are_counted():
    """A region more than before is a leak."""
    gc.collect()  # nothing of other tests is let go meanwhile
    before = Footprint.of(os.getpid())
    region = os.memfd_create("losswire")
    try:
        assert Footprint.of(os.getpid()).leaks(before) == {"files": 1, "regions": 1}
    finally:
        os.close(region)
    assert Footprint.of(os.getpid()).leaks(before) == {}


def test_threads_that_are_left_are_counted():
    """One more than before is a leak, but in pools, which make theirs by and by."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as alone:
        in_a_pool, by_itself = alone.submit(_threads_around).result()
    assert in_a_pool == {}
    assert by_itself == {"threads": 1}
    before = InUse(1, 1, 1, threads=3, grpc_threads=4)
    assert replace(before, grpc_threads=8).leaks(before) == {}
    assert replace(before, grpc_threads=9).leaks(before) == {"grpc_threads": 1}


def _threads_around():
    """What is thought to leak when a pool has one thread more; and when there is one by itself."""
    before = InUse.now()
    with ThreadPoolExecutor(1, "losswire-batch") as pool:
        pool.submit(int).result()
        in_a_pool = InUse.now().leaks(before)
    may_end = threading.Event()
    left = threading.Thread(target=may_end.wait)
    left.start()
    by_itself = InUse.now().leaks(before)
    may_end.set()
    left.join()
    return in_a_pool, by_itself


def _in_use_around(buffers, objects, cycles):
    """Of this process, before and after it came to hold these; the cycles are garbage by then."""
    before = InUse.now()
    held = [bytearray(64 << 10) for _ in range(buffers)], [(number,) for number in range(objects)]
    gc.disable()  # or most of it would be collected before anybody looks
    for _ in range(cycles):
        cycle = [bytearray(1 << 10)]
        cycle.append(cycle)
    after = InUse.now()
    del held
    return before, after


def test_what_is_in_use_is_counted_without_garbage():
    """Buffers and small objects that are held, but not cycles that nobody holds."""
    # In a process of its own: pages that other tests have left in pieces would be filled first.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
        before, after = alone.submit(_in_use_around, 1_000, 50_000, 50_000).result()
    held = 1_000 * (64 << 10)
    assert abs(after.heap_bytes - before.heap_bytes - held) < held / 20
    assert 50_000 <= after.python_blocks - before.python_blocks < 3 * 50_000
    assert 0.95 * held < after.resident_bytes - before.resident_bytes < 1.25 * held
    assert InUse(30, 1, 1, 5, 6).drift(InUse(20, 0, 1, 1, 1)) == {
        "heap_bytes": 0.5,
        "resident_bytes": 0.0,
    }


def test_a_server_tells_what_it_has_in_use():
    """Its heap and its objects, between calls that it serves as before."""
    with WatchedServer(engine="numpy") as server, losswire.Client(server.target) as client:
        client.softmax(np.zeros((300, 1000), np.float32))
        before = server.in_use()
        assert client.softmax(np.zeros(2)).tolist() == [0.5, 0.5]
        assert abs(server.in_use().heap_bytes - before.heap_bytes) < 1 << 20
        assert before.heap_bytes > 4 << 20
        assert before.python_blocks > 100_000


@pytest.mark.parametrize("scenario", overload.SCENARIOS, ids=lambda each: each.more)
def test_an_overload_in_small(scenario):
    """What is not let in is told so, every answer is right, and the figures can be written."""
    scenario = replace(scenario, settings={"queue_requests": 2}, held=2)
    watched = []
    figures = overload.run(scenario, 2.0, watched.append, shape="512x500")
    assert figures["right"] > 0
    assert figures["wrong"] == 0
    # A machine that is busy with other things may be late as well.
    assert {"ServerBusy"} <= set(figures["others"]) <= DOCUMENTED
    assert watched[-1] == figures["right"] + sum(figures["others"].values())
    assert json.loads(json.dumps(figures)) == figures


def test_the_command_says_whether_a_promise_is_broken(tmp_path, monkeypatch, capsys):
    """Status 0 and figures in a file, or status 1 and a line for what was broken."""
    figures, path = copy.deepcopy(GOOD["faults"]), tmp_path / "deep" / "soak.json"
    monkeypatch.setattr(command, "_parts", lambda _loop, _asked: {"faults": lambda _watch: figures})
    assert command.main(["--json", str(path)]) == 0
    written = json.loads(path.read_text())
    assert written["faults"] == figures
    assert written["about"]["packages"]["losswire"] == losswire.__version__
    figures["wrong"] = 1
    assert command.main(["--json", str(path)]) == 1
    assert json.loads(path.read_text())["broken"] == ["faults: 1 wrong"]
    assert "faults: 1 wrong" in capsys.readouterr().out
