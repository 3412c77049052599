"""The asynchronous client: the same methods, as coroutines."""

import asyncio
import inspect
import threading
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

import losswire

LOGITS = [[2.0, 1.0, 0.5], [1.0, 0.5, 0.0]]


def test_it_agrees_with_the_synchronous_client(server, client):
    """Results have the same bits whichever client asked."""

    async def play():
        async with losswire.AsyncClient(server.target) as connected:
            return await asyncio.gather(
                connected.softmax_cross_entropy(LOGITS, [0, 1], reduction="mean"),
                connected.server_info(),
            )

    result, info = asyncio.run(play())
    expected = client.softmax_cross_entropy(LOGITS, [0, 1], reduction="mean")
    assert result.loss.tobytes() == expected.loss.tobytes()
    assert result.grad_logits.tobytes() == expected.grad_logits.tobytes()
    assert info == client.server_info()


def test_calls_overlap(server):
    """Many calls in flight at once each get their own result."""

    async def play():
        async with losswire.AsyncClient(server.target) as client:
            ids = [np.array([i % 3]) for i in range(200)]
            results = await asyncio.gather(
                *(client.softmax_cross_entropy(LOGITS[:1], i) for i in ids)
            )
            return [float(result.loss[0]) for result in results]

    losses = asyncio.run(play())
    assert losses == losses[:3] * 66 + losses[:2]
    assert len(set(losses)) == 3


def test_errors_come_when_awaited(server):
    """Bad input and dead servers raise from the await, as everything else of a coroutine."""

    async def play():
        async with losswire.AsyncClient(server.target) as client:
            call = client.softmax_cross_entropy(LOGITS, [0, 5])
            with pytest.raises(losswire.InvalidInput, match="received 5 at index"):
                await call
        async with losswire.AsyncClient("127.0.0.1:1") as client:
            with pytest.raises(losswire.ServerUnavailable, match=r"127\.0\.0\.1:1"):
                await client.server_info()

    asyncio.run(play())


def test_cancelling_takes_the_call_back(server):
    """A cancelled task ends at once; the client goes on working."""

    async def play():
        async with losswire.AsyncClient(server.target) as client:
            logits = np.zeros((2000, 1000), np.float32)
            task = asyncio.ensure_future(
                client.softmax_cross_entropy(logits, np.zeros(2000, np.int16))
            )
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await client.softmax_cross_entropy(LOGITS, [0, 1])

    assert asyncio.run(play()).loss.shape == (2,)


def test_cancelling_reaches_the_server():
    """The server learns that a cancelled call is not wanted any more."""
    arrived, cancelled = threading.Event(), threading.Event()

    def handler(_payload, context):
        context.add_callback(cancelled.set)
        arrived.set()
        assert cancelled.wait(30)
        return b""

    own = grpc.server(ThreadPoolExecutor(1))
    rpcs = {"GetServerInfo": grpc.unary_unary_rpc_method_handler(handler)}
    own.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("losswire.v1.LossService", rpcs)]
    )
    port = own.add_insecure_port("127.0.0.1:0")
    own.start()

    async def play():
        async with losswire.AsyncClient(f"127.0.0.1:{port}") as client:
            task = asyncio.ensure_future(client.server_info(timeout=60))
            await asyncio.to_thread(arrived.wait, 30)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await asyncio.to_thread(cancelled.wait, 10)

    assert asyncio.run(play())
    own.stop(None).wait()


def test_a_closed_client(server):
    """Calls in flight at close end with an error; later ones say that the client is closed."""

    async def play():
        client = losswire.AsyncClient(server.target)
        await client.server_info()
        logits = np.zeros((4000, 1000), np.float32)
        task = asyncio.ensure_future(client.softmax_cross_entropy(logits, np.zeros(4000, np.int16)))
        await asyncio.sleep(0)
        await client.close()
        with pytest.raises(losswire.ServerError, match="closed"):
            await task
        with pytest.raises(RuntimeError, match="the client has been closed"):
            await client.server_info()

    asyncio.run(play())


def test_both_clients_have_the_same_methods():
    """Public methods and their parameters are the same, whatever they return."""

    def methods(cls):
        return {
            name: str(inspect.signature(member).replace(return_annotation=None))
            for name, member in inspect.getmembers(cls, inspect.isfunction)
            if not name.startswith("_")
        }

    assert methods(losswire.Client) == methods(losswire.AsyncClient)
    constructors = [inspect.signature(c.__init__) for c in (losswire.Client, losswire.AsyncClient)]
    assert constructors[0] == constructors[1]
