"""A batcher over an engine whose batches start and end when the test says so."""

import asyncio

import numpy as np

from held import HeldEngine
from losswire_proto.losses import LossCall
from losswire_server.batcher import Batcher
from losswire_server.groups import BatchLimits
from losswire_server.requests import LossRequest

ROOMY = BatchLimits(rows=1000, nbytes=1 << 30, wait_us=3600_000_000)


def request_of(rows, classes=3, **fields):
    """A request that can be told by its number of rows."""
    ids = np.zeros(rows, np.int64)
    return LossRequest(LossCall(), np.zeros((rows, classes), np.float32), 1, ids, "ids", **fields)


def scenario(limits=ROOMY, quick_bytes=0):
    """Runs a coroutine function with a batcher over a held engine."""

    def decorate(test):
        def run():
            async def play():
                engine = HeldEngine(quick_bytes)
                batcher = Batcher(engine, limits)
                try:
                    await test(batcher, engine)
                finally:
                    engine.release(100)
                    await batcher.close()

            asyncio.run(play())

        run.__doc__, run.__name__ = test.__doc__, test.__name__
        return run

    return decorate


async def submitted(batcher, *sizes, **options):
    """Tasks of requests that have reached the batcher."""
    tasks = [asyncio.ensure_future(batcher.submit(request_of(n), **options)) for n in sizes]
    await asyncio.sleep(0)
    return tasks
