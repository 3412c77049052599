"""Retries end with the call's deadline, on both clients."""

import asyncio

import grpc
import numpy as np
import pytest

import losswire
from losswire_server.admission import Account
from losswire_server.errors import Overloaded
from served import LONG, Served

LOGITS = np.zeros((4, 3))


@pytest.fixture
def full(monkeypatch):
    """A server that refuses every request with a delay, until it is told to take them."""
    take = Account.take
    refusals = []

    def refuse(account, nbytes):
        if refusals and refusals[0] <= 0:
            return take(account, nbytes)
        refusals[0] -= 1
        raise Overloaded("the queue is full", refusals[1])

    monkeypatch.setattr(Account, "take", refuse)
    with Served() as served:
        served.refusals = refusals
        yield served


def softmax(kind, target, transport, timeout):
    if kind == "sync":
        with losswire.Client(target, transport=transport, timeout=timeout) as client:
            return client.softmax(LOGITS)

    async def play():
        async with losswire.AsyncClient(target, transport=transport, timeout=timeout) as client:
            return await client.softmax(LOGITS)

    return asyncio.run(play())


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("transport", ["auto", "inline", "stream"])
def test_refused_calls(full, kind, transport):
    """A call is made again until there is room; where that comes too late, it is ServerBusy."""
    full.refusals[:] = [3, 1]
    assert softmax(kind, full.target, transport, LONG).shape == LOGITS.shape
    assert full.refusals[0] == 0
    full.refusals[:] = [5, 90_000]
    with pytest.raises(losswire.ServerBusy, match="the queue is full") as caught:
        softmax(kind, full.target, transport, LONG)
    assert full.refusals[0] == 4, "it was tried again, though its delay is beyond the deadline"
    assert caught.value.retry_delay == 90.0
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
