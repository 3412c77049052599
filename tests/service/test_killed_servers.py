"""Servers that are killed or stopped while calls are on their way: nothing is lost, none is wrong.

Each path is played against two servers at once; results have to have the bits that they have when
nothing happens.
"""

import asyncio
import os
import signal
import threading
from dataclasses import dataclass, field

import numpy as np
import pytest

import losswire
from losswire import _stream
from losswire_server import LocalServer

TIMEOUT = 50.0
RANDOM = np.random.default_rng(5)
SMALL = RANDOM.normal(size=(8, 10)).astype(np.float32), RANDOM.integers(0, 10, 8)
LARGE = RANDOM.normal(size=(600, 500)).astype(np.float32), RANDOM.integers(0, 500, 600)
PATHS = [("auto", SMALL), ("inline", LARGE), ("stream", LARGE), ("shared", LARGE)]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """A stream has many blocks, so that servers are killed amid it."""
    monkeypatch.setattr(_stream, "BLOCK_BYTES", LARGE[0].nbytes // 12)


def bits(result):
    return result.loss.tobytes(), result.per_example.tobytes(), result.grad_logits.tobytes()


@dataclass
class Caller:
    """Makes the same call over and over, and looks at each result."""

    transport: str
    arguments: tuple
    expected: tuple
    is_over: threading.Event = field(default_factory=threading.Event)
    results: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))
    wrong: list = field(default_factory=list)

    def run(self, target):
        try:
            with losswire.Client(target, transport=self.transport, timeout=TIMEOUT) as client:
                while not self.is_over.is_set():
                    self.take(client.softmax_cross_entropy(*self.arguments, reduction="mean"))
        except losswire.LosswireError as error:
            self.fail(error)

    async def run_async(self, target):
        try:
            async with losswire.AsyncClient(
                target, transport=self.transport, timeout=TIMEOUT
            ) as client:
                while not self.is_over.is_set():
                    self.take(await client.softmax_cross_entropy(*self.arguments, reduction="mean"))
        except losswire.LosswireError as error:
            self.fail(error)

    def fail(self, error):
        self.wrong.append(error)
        self.results.release(1000)

    def take(self, result):
        if bits(result) != self.expected:
            self.wrong.append("a wrong result")
        self.results.release()

    def wait_for(self, results):
        for _ in range(results):
            assert self.results.acquire(timeout=TIMEOUT), f"{self.transport}: nothing comes"


def callers_of(target):
    """One for each path, with the results that a server gives in peace."""
    with losswire.Client(target, transport="inline") as client:
        return [
            Caller(way, arrays, bits(client.softmax_cross_entropy(*arrays, reduction="mean")))
            for way, arrays in PATHS
        ]


def started(callers, target, kind):
    """Threads on which they run."""

    async def together():
        await asyncio.gather(*(caller.run_async(target) for caller in callers))

    if kind == "async":
        threads = [threading.Thread(target=lambda: asyncio.run(together()))]
    else:
        threads = [threading.Thread(target=each.run, args=(target,)) for each in callers]
    for thread in threads:
        thread.start()
    return threads


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_result_is_lost_or_wrong(kind, number):
    """One of two servers ends amid calls, comes back, then the other ends: nobody notices."""
    with LocalServer(engine="numpy") as first, LocalServer(engine="numpy") as second:
        target = f"ipv4:{first.target},{second.target}"
        callers = callers_of(second.target)
        threads = started(callers, target, kind)
        try:
            for caller in callers:
                caller.wait_for(5)
            os.kill(first.pid, number)
            for caller in callers:
                caller.wait_for(20)
            port = int(first.target.rsplit(":", 1)[1])
            first._process.wait(30)
            with LocalServer(engine="numpy", port=port):
                for caller in callers:
                    caller.wait_for(20)
                os.kill(second.pid, number)
                for caller in callers:
                    caller.wait_for(20)
                    caller.is_over.set()
                for thread in threads:
                    thread.join()
        finally:
            for caller in callers:
                caller.is_over.set()
    assert [caller.wrong for caller in callers] == [[], [], [], []]
