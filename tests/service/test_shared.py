"""Tensors in shared memory: the results of other paths to the bit, whatever memory they lie in."""

import asyncio
import threading
from collections import deque

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import losswire
from anyloss import bits, large, problems
from losswire import _placed
from losswire._advice import Advice
from losswire._requests import ask
from losswire_proto.losses import KlDivergence
from losswire_server import LocalServer
from shared_memory import LAYOUTS, is_in_region, laid_out

# Random label rows are what is wanted here.
pytestmark = pytest.mark.filterwarnings("ignore:labels. some rows of distributions:UserWarning")


@pytest.fixture
def _all_in_regions(monkeypatch):
    """Every tensor goes through a region, however small."""
    monkeypatch.setattr(_placed, "INLINE_BYTES", 0)


@pytest.fixture(scope="module")
def kept(server):
    """A client for each path, and some earlier results, kept from example to example."""
    with (
        losswire.Client(server.target, transport="shared") as shared,
        losswire.Client(server.target, transport="inline") as inline,
    ):
        yield shared, inline, deque(maxlen=8)


@pytest.fixture
def shared(server, request):
    request.getfixturevalue("_all_in_regions")
    with losswire.Client(server.target, transport="shared") as client:
        yield client


@pytest.fixture
def inline(server):
    with losswire.Client(server.target, transport="inline") as client:
        yield client


def in_random_memory(draw, client, problem):
    """A problem's logits and labels in memory of any kind, perhaps one array for both."""
    logits = laid_out(client, problem.logits, draw(st.sampled_from(LAYOUTS)))
    if problem.labels is None:
        return logits, None
    same = (problem.labels.shape, problem.labels.dtype) == (logits.shape, logits.dtype)
    if same and draw(st.booleans()):
        return logits, logits
    return logits, laid_out(client, problem.labels, draw(st.sampled_from(LAYOUTS)))


@settings(max_examples=250, deadline=None)
@given(problem=problems(), data=st.data())
def test_every_loss_in_any_memory(kept, problem, data):
    """All results have the bits of the message path, inputs stay as they are, unless overwritten.

    Results of earlier calls stay what they were while later ones use memory again.
    """
    shared, inline, earlier = kept
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_placed, "INLINE_BYTES", 0)
        given_ = in_random_memory(data.draw, shared, problem)
        before = [None if array is None else array.tobytes() for array in given_]
        copies = [None if array is None else array.copy() for array in given_]
        overwrite = problem.call.grad_logits and data.draw(st.booleans())
        extra = {"overwrite_logits": True} if overwrite else {}
        result = problem.ask(shared, *given_, **extra)
    assert bits(result) == bits(problem.ask(inline, *copies))
    if overwrite:
        assert result.grad_logits is given_[0]
    after = [None if array is None else array.tobytes() for array in given_]
    is_one = given_[0] is given_[1]
    assert after[1:] == before[1:] or (overwrite and is_one)
    assert after[:1] == before[:1] or overwrite
    earlier.append((result, bits(result)))
    assert all(bits(old) == expected for old, expected in earlier)
    if overwrite:
        earlier.pop()


@settings(max_examples=40, deadline=None)
@given(several=st.lists(problems(), min_size=1, max_size=4))
def test_the_asynchronous_client(server, kept, several):
    """Calls of one asynchronous client that overlap get their own results, the same bits."""

    async def play():
        async with losswire.AsyncClient(server.target, transport="shared") as client:
            return await asyncio.gather(*(problem.ask(client) for problem in several))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_placed, "INLINE_BYTES", 0)
        results = asyncio.run(play())
    assert [bits(each) for each in results] == [bits(each.ask(kept[1])) for each in several]


def test_gradients_over_overlapping_labels(server):
    """overwrite_logits reads labels before it writes over them, on every path."""
    memory = np.random.default_rng(3).normal(size=(1201, 300))
    expected = None
    for transport in ("inline", "stream", "shared"):
        with losswire.Client(server.target, transport=transport) as client:
            for mine in (memory.copy(), laid_out(client, memory, "region")):
                logits, target = mine[:-1], mine[1:][::-1]
                result = client.kl_divergence(
                    logits, target, target_is_logits=True, overwrite_logits=True
                )
                assert result.grad_logits is logits
                got = bits(result)
                expected = expected or got
                assert got == expected, transport


@pytest.mark.parametrize("is_same", [False, True])
def test_only_labels_that_cross_the_gradient_are_copied(is_same):
    """Labels that lie exactly under the gradient are sent before it comes; others are copied."""
    memory = np.zeros((5, 3))
    labels = memory[:-1] if is_same else memory[1:]
    options = {"gradients": True, "overwrite_logits": True}
    asked = ask(Advice(), KlDivergence, options, memory[:-1], labels)
    assert np.shares_memory(asked.labels, memory) == is_same


def test_empty_tensors(shared, inline):
    """No examples are no trouble: nothing lies in a region."""
    for shape, examples in (((0, 3), (0,)), ((2, 0, 3), (2, 0))):
        logits, ids = shared.empty(shape), shared.empty(examples, np.int64)
        result = shared.softmax_cross_entropy(logits, ids, reduction="mean")
        assert bits(result) == bits(inline.softmax_cross_entropy(logits, ids, reduction="mean"))


def test_byte_orders_and_other_numbers(shared, inline):
    """Big-endian arrays, long doubles and small floats mean the same as on other paths."""
    logits, ids, soft = large(np.float64, (6, 5))
    for one, other in (
        (logits.astype(">f8"), ids.astype(">i4")),
        (logits, soft.astype(np.longdouble)),
        (logits, soft.astype(ml_dtypes.float8_e4m3fn)),
        (logits.tolist(), ids.tolist()),
    ):
        mine, theirs = (each.softmax_cross_entropy(one, other) for each in (shared, inline))
        assert bits(mine) == bits(theirs)


@pytest.mark.usefixtures("_all_in_regions")
def test_threads_share_regions(server):
    """Threads that announce, use and drop regions of one client get their own results.

    Some of them lie in one region, whose halves two threads compute at the same time.
    """
    logits, ids, soft = large(np.float32)
    wrong = []
    with (
        losswire.Client(server.target, transport="shared") as client,
        losswire.Client(server.target, transport="inline") as inline,
    ):
        whole = laid_out(client, logits, "region")
        halves = [(whole[:350], ids[:350]), (whole[350:], ids[350:])] * 3
        expected = [bits(inline.softmax_cross_entropy(*half)) for half in halves]
        barrier = threading.Barrier(len(halves))

        def work(number):
            barrier.wait()
            for _ in range(5):
                result = client.softmax_cross_entropy(*halves[number])
                if bits(result) != expected[number]:
                    wrong.append(number)
                own = logits[: 50 * number + 50]
                mine = client.kl_divergence(own, soft[: len(own)], overwrite_logits=False)
                if not np.array_equal(mine.grad_logits, kl.grad_logits[: len(own)]):
                    wrong.append(number)

        kl = inline.kl_divergence(logits, soft)
        threads = [threading.Thread(target=work, args=(number,)) for number in range(len(halves))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.usefixtures("_all_in_regions")
def test_two_threads_overwrite_halves_of_one_array(server):
    """Each gradient takes the place of its own half, when both have to announce the region."""
    logits, ids, _ = large(np.float32)
    with losswire.Client(server.target, transport="inline") as inline:
        expected = inline.softmax_cross_entropy(logits, ids).grad_logits.tobytes()
    with losswire.Client(server.target, transport="shared") as client:
        for _ in range(10):
            whole = laid_out(client, logits, "region")
            client._paths.shared.regions.find(whole)[0].id = None
            barrier = threading.Barrier(2)

            def work(half, whole=whole, barrier=barrier):
                barrier.wait()
                client.softmax_cross_entropy(whole[half], ids[half], overwrite_logits=True)

            halves = (slice(0, 350), slice(350, 700))
            threads = [threading.Thread(target=work, args=(half,)) for half in halves]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert whole.tobytes() == expected


@pytest.mark.usefixtures("_all_in_regions")
def test_many_results_do_not_take_all_file_descriptors(server, inline):
    """A caller may keep any number of results; beyond some they are copied out of regions."""
    logits, ids, _ = large(np.float32, (5, 4))
    with losswire.Client(server.target, transport="shared") as client:
        results = [client.softmax_cross_entropy(logits + n, ids) for n in range(150)]
        where = [is_in_region(client, result.grad_logits) for result in results]
    assert where[0]
    assert not where[-1]
    expected = [inline.softmax_cross_entropy(logits + n, ids) for n in range(150)]
    assert [bits(each) for each in results] == [bits(each) for each in expected]


@pytest.mark.usefixtures("_all_in_regions")
def test_arrays_of_another_client(server, inline):
    """An array in another client's region is read like any array; its own client goes on."""
    logits, ids, _ = large(np.float32)
    expected = bits(inline.softmax_cross_entropy(logits, ids))
    with (
        LocalServer(engine="numpy") as second,
        losswire.Client(server.target, transport="shared") as one,
        losswire.Client(second.target, transport="shared") as other,
    ):
        array = laid_out(one, logits, "region")
        for client in (one, other, one, other):
            assert bits(client.softmax_cross_entropy(array, ids)) == expected
        result = other.softmax_cross_entropy(array, ids, overwrite_logits=True)
        assert result.grad_logits is array
        assert bits(result) == expected
