"""Calls that are cut off after their logits may have been overwritten are not made again."""

import asyncio
import threading

import grpc
import numpy as np
import pytest

import losswire
from gated import GatedServer
from losswire import _stream
from losswire._errors import from_status

LOGITS = np.random.default_rng(9).normal(size=(400, 300)).astype(np.float32)
IDS = np.random.default_rng(9).integers(0, 300, 400)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(_stream, "BLOCK_BYTES", LOGITS.nbytes // 10)


@pytest.fixture(scope="module")
def gated():
    with GatedServer() as running:
        yield running


class Cuts:
    """Has the first tries of a client's steps fail, after so many replies of a stream."""

    def __init__(
        self, client, monkeypatch, rpc, replies=0, code=grpc.StatusCode.UNAVAILABLE, **how
    ):
        self.tries = 0
        self._error = from_status(code, "cut off", "server", 1.0, **how)
        self._advance, self._rpc, self._replies = client._advance, rpc, replies
        monkeypatch.setattr(client, "_advance", self.advance)

    def advance(self, plan, seconds, answer=None):
        step = self._advance(plan, seconds, answer)
        if getattr(step, "rpc", None) == self._rpc:
            self.tries += 1
            if self.tries == 1 and self._rpc == "Compute":
                return self.advance(plan, seconds, self._fail)
            if self.tries == 1:
                self._taken = 0
                take = step.take
                object.__setattr__(step, "take", lambda payload: self._take(take, payload))
        return step

    def _take(self, take, payload):
        if self._taken == self._replies:
            self._fail()
        self._taken += 1
        take(payload)

    def _fail(self):
        raise self._error


def call(kind, client, logits, **options):
    """Makes the call with either client."""
    if kind == "sync":
        return client.softmax_cross_entropy(logits, IDS, **options)

    async def play():
        return await client.softmax_cross_entropy(logits, IDS, **options)

    return asyncio.run(play())


def connected(kind, target, transport):
    make = losswire.Client if kind == "sync" else losswire.AsyncClient
    return make(target, transport=transport, timeout=20)


def expected_of(target):
    with losswire.Client(target, transport="inline") as client:
        return client.softmax_cross_entropy(LOGITS, IDS).grad_logits.tobytes()


def close(kind, client):
    client.close() if kind == "sync" else asyncio.run(client.close())


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize(("replies", "overwrite"), [(0, True), (4, True), (4, False)])
def test_streams(gated, monkeypatch, kind, replies, overwrite):
    """A stream begins anew only while the caller's rows are what they were."""
    client, logits = connected(kind, gated.target, "stream"), LOGITS.copy()
    cuts = Cuts(client, monkeypatch, "ComputeStream", replies)
    if replies and overwrite:
        with pytest.raises(losswire.ServerUnavailable, match="cut off"):
            call(kind, client, logits, overwrite_logits=True)
        assert cuts.tries == 1
        assert not np.array_equal(logits, LOGITS)
    else:
        result = call(kind, client, logits, overwrite_logits=overwrite)
        assert result.grad_logits.tobytes() == expected_of(gated.target)
        assert cuts.tries == 2
    close(kind, client)


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("place", ["own", "region"])
@pytest.mark.parametrize("how", ["cut off", "refused"])
def test_shared_memory(gated, monkeypatch, kind, place, how):
    """A server that may have written over the caller's own memory is not asked again."""
    client = connected(kind, gated.target, "shared")
    logits = client.empty(LOGITS.shape, np.float32) if place == "region" else LOGITS.copy()
    logits[...] = LOGITS
    delay = {"retry_delay": 0.01} if how == "refused" else {}
    cuts = Cuts(client, monkeypatch, "Compute", **delay)
    if (place, how) == ("region", "cut off"):
        with pytest.raises(losswire.ServerUnavailable, match="cut off"):
            call(kind, client, logits, overwrite_logits=True)
        assert cuts.tries == 1
    else:
        result = call(kind, client, logits, overwrite_logits=True)
        assert result.grad_logits is logits
        assert result.grad_logits.tobytes() == expected_of(gated.target)
        assert cuts.tries == 2
    close(kind, client)


def test_what_an_old_try_still_writes_reaches_no_result(gated, monkeypatch):
    """A server that was cut off may finish a call: the next try has other memory for results."""
    with losswire.Client(gated.target, transport="shared", timeout=20) as client:
        logits = client.empty(LOGITS.shape, np.float32)
        logits[...] = LOGITS
        gated.hold()
        channel = client._connection.channel
        first, is_cut = [], threading.Event()

        def cut(step, *others):
            if getattr(step, "rpc", None) == "Compute" and not first:
                method = channel().unary_unary("/losswire.v1.LossService/Compute")
                first.append(method.future(step.payload))
                gated.wait_until_entered()
                is_cut.set()
                raise from_status(grpc.StatusCode.UNAVAILABLE, "cut off", "server", 1.0)
            return perform(step, *others)

        perform = client._perform
        monkeypatch.setattr(client, "_perform", cut)
        results = []
        thread = threading.Thread(
            target=lambda: results.append(client.softmax_cross_entropy(logits, IDS))
        )
        thread.start()
        assert is_cut.wait(30)
        gated.wait_until_entered()
        gated.open()
        thread.join()
        first[0].result()
        spoilt = [region for region in client._paths.shared.regions._all if not region.is_reusable]
        ours = client._paths.shared.regions.find(results[0].grad_logits)[0]
        assert spoilt
        assert ours not in spoilt
        assert results[0].grad_logits.tobytes() == expected_of(gated.target)
