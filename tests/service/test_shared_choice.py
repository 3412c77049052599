"""Which path large tensors take, and what is said where shared memory is no path."""

import threading
from pathlib import Path

import numpy as np
import pytest

import losswire
from anyloss import DTYPES, bits, large
from losswire import _shared
from losswire._regions import Region
from losswire._shared import SharedMemory
from losswire_server import LocalServer
from shared_memory import is_in_region, laid_out


@pytest.fixture
def inline(server):
    with losswire.Client(server.target, transport="inline") as client:
        yield client


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_large_tensors(server, inline, dtype):
    """Beyond all thresholds results lie in regions, of every dtype, with the same bits."""
    logits, ids, soft = large(dtype, (3000, 500))
    with losswire.Client(server.target) as client:
        for labels in (ids, soft):
            options = {"reduction": "mean", "extras": ("argmax",)}
            if labels is soft:
                options["gradients"] = ("logits", "labels")
            result = client.softmax_cross_entropy(logits, labels, **options)
            assert is_in_region(client, result.grad_logits), "auto did not share memory"
            expected = inline.softmax_cross_entropy(logits, labels, **options)
            assert bits(result) == bits(expected)
        result = client.sigmoid_cross_entropy(logits, soft)
        assert is_in_region(client, result.per_example)
        assert bits(result) == bits(inline.sigmoid_cross_entropy(logits, soft))


def assert_streamed(client, logits, ids):
    """`auto` finds another path; the results are as good, and in memory of the caller's own."""
    result = client.softmax_cross_entropy(logits, ids)
    assert not is_in_region(client, result.grad_logits)
    return bits(result)


def test_servers_that_share_no_memory():
    """Large tensors are streamed to a server that shares none; asking for shared says why."""
    logits, ids, _ = large(np.float32)
    with LocalServer(engine="numpy", max_region_bytes=0) as server:
        with (
            losswire.Client(server.target) as client,
            losswire.Client(server.target, transport="inline") as inline,
        ):
            expected = bits(inline.softmax_cross_entropy(logits, ids))
            assert assert_streamed(client, logits, ids) == expected
            array = laid_out(client, logits, "region")
            assert not is_in_region(client, array)
            assert assert_streamed(client, array, ids) == expected
        with (
            losswire.Client(server.target, transport="shared") as client,
            pytest.raises(losswire.InvalidInput, match="'shared' cannot be used: the server sha"),
        ):
            client.softmax_cross_entropy(logits, ids)


def test_a_server_with_little_room():
    """What it has no room for is streamed, and the rest still shared; busy is no mistake."""
    logits, ids, _ = large(np.float32, (3000, 500))
    with LocalServer(engine="numpy", max_region_bytes=4 << 20) as server:
        with (
            losswire.Client(server.target) as client,
            losswire.Client(server.target, transport="inline") as inline,
        ):
            expected = bits(inline.softmax_cross_entropy(logits, ids))
            assert assert_streamed(client, logits, ids) == expected
            few, some = logits[:800], ids[:800]
            expected, wrong = bits(inline.softmax_cross_entropy(few, some)), []
            result = client.softmax_cross_entropy(few, some)
            assert is_in_region(client, result.grad_logits)

            def work():
                kept = [client.softmax_cross_entropy(few, some) for _ in range(6)]
                wrong.extend(each for each in kept if bits(each) != expected)

            threads = [threading.Thread(target=work) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert wrong == []
        with losswire.Client(server.target, transport="shared") as client:
            # More than the limit by itself, and only together with its gradient.
            for rows in (3000, 1060):
                array = laid_out(client, logits[:rows], "region")
                with pytest.raises(losswire.InvalidInput, match="larger than what the server shar"):
                    client.softmax_cross_entropy(array, ids[:rows])
            # And two inputs together.
            other = laid_out(client, logits[:1060], "region")
            with pytest.raises(losswire.InvalidInput, match="larger than what the server shares"):
                client.kl_divergence(array, other, target_is_logits=True, gradients=False)
            assert bits(client.softmax_cross_entropy(few, some)) == expected


def test_regions_that_the_server_let_go_are_announced_again():
    """Arrays that a caller keeps need more room than there is; each call gets its part of it."""
    logits, ids, _ = large(np.float32, (800, 500))
    with (
        LocalServer(engine="numpy", max_region_bytes=4 << 20) as server,
        losswire.Client(server.target, transport="shared") as client,
        losswire.Client(server.target, transport="inline") as inline,
    ):
        expected = bits(inline.softmax_cross_entropy(logits, ids))
        array = laid_out(client, logits, "region")
        kept = [client.softmax_cross_entropy(array, ids) for _ in range(5)]
        assert all(bits(each) == expected for each in kept)
        assert all(is_in_region(client, each.grad_logits) for each in kept)


def test_a_server_without_room_is_busy(server, monkeypatch):
    """Where the server never has room for all regions, shared is ServerBusy, and auto streams."""
    announced = SharedMemory._announce

    def forgotten(self, placed):
        yield from announced(self, placed)
        placed.ids = dict.fromkeys(placed.ids, "gone")

    monkeypatch.setattr(SharedMemory, "_announce", forgotten)
    logits, ids, _ = large(np.float32)
    with (
        losswire.Client(server.target, transport="shared") as client,
        pytest.raises(losswire.ServerBusy, match="no room for the regions of all calls"),
    ):
        client.softmax_cross_entropy(logits, ids)
    with losswire.Client(server.target) as client:
        assert_streamed(client, logits, ids)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((_shared, "_host", lambda: ("another", 1)), "another host or in another container"),
        ((_shared, "Path", lambda _path: Path("/nowhere")), "another host or in another container"),
        ((Region, "announcement", lambda _region, _handover: b""), "source: expected process_file"),
        ((Region, "_proof_", None), "first bytes of that file as proof"),
    ],
    ids=["other host", "unknown host", "refused", "wrong proof"],
)
def test_memory_that_cannot_be_shared(server, monkeypatch, change, words):
    """Elsewhere, or refused by the server: auto streams, shared is a clear error."""
    where, name, replacement = change
    if name == "_proof_":
        name, replacement = "announcement", wrong_proof(Region.announcement)
    monkeypatch.setattr(where, name, replacement)
    logits, ids, _ = large(np.float32)
    with losswire.Client(server.target) as client:
        first = assert_streamed(client, logits, ids)
        assert assert_streamed(client, logits, ids) == first
    with losswire.Client(server.target, transport="shared") as client:
        for _ in range(2):
            with pytest.raises(losswire.InvalidInput, match=words):
                client.softmax_cross_entropy(logits, ids)


def wrong_proof(announcement):
    def changed(region, handover):
        region._proof = bytes(32)
        return announcement(region, handover)

    return changed
