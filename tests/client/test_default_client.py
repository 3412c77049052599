"""The client of the process: made once, when asked for, and replaceable."""

import multiprocessing
import threading

import pytest

import losswire


@pytest.fixture(autouse=True)
def _no_default():
    """Each test begins and ends without a default client."""
    losswire.set_default_client(None)
    yield
    losswire.set_default_client(None)


def test_it_is_made_once_for_the_target_of_the_environment(monkeypatch, server):
    """The first call makes it, later ones return it, and it serves."""
    made = []
    monkeypatch.setattr(
        "losswire._default.Client", lambda: made.append(losswire.Client()) or made[-1]
    )
    monkeypatch.setenv("LOSSWIRE_TARGET", server.target)
    with losswire.default_client() as client:
        monkeypatch.setenv("LOSSWIRE_TARGET", "elsewhere:1")
        assert losswire.default_client() is client
        assert made == [client]
        assert client.softmax_cross_entropy([0.0, 0.0], 0).loss == pytest.approx(0.693147)


def test_without_a_target_it_is_the_local_one():
    """Nobody has said where the server is."""
    with losswire.default_client() as client:
        assert client.target == "localhost:50051"


def test_it_can_be_replaced(client):
    """Another client takes its place, until it is taken away."""
    losswire.set_default_client(client)
    assert losswire.default_client() is client
    losswire.set_default_client(None)
    with losswire.default_client() as another:
        assert another is not client


def test_only_a_synchronous_client_can_be_it(server):
    """An asynchronous one would hand coroutines to the frameworks."""
    wrong = losswire.AsyncClient(server.target)
    with pytest.raises(losswire.InvalidInput, match=r"client: expected a losswire\.Client"):
        losswire.set_default_client(wrong)


def test_threads_share_one():
    """Threads that ask at the same time are given the same one."""
    barrier, seen = threading.Barrier(8), []

    def ask():
        barrier.wait(60)
        seen.append(losswire.default_client())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, seen))) == 1
    seen[0].close()


def _ask_in_child(results):
    results.put(float(losswire.default_client().softmax_cross_entropy([0.0, 0.0], 0).loss))


def test_after_a_fork_the_child_goes_on(client):
    """A default client that was used before a fork works in the child, and in the parent."""
    losswire.set_default_client(client)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    assert client.softmax_cross_entropy([0.0, 0.0], 0).loss == pytest.approx(0.693147)
    child = context.Process(target=_ask_in_child, args=(results,))
    child.start()
    assert results.get(timeout=60) == pytest.approx(0.693147)
    child.join()
    assert client.softmax_cross_entropy([0.0, 0.0], 0).loss == pytest.approx(0.693147)
