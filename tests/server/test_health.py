"""Health: what is answered, who is told of changes, and how those who watch are let go."""

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2 as pb

from losswire_server.health import Health

STATUS = pb.HealthCheckResponse


class Context:
    """A call that ends when it is aborted."""

    async def abort(self, code, _details):
        raise grpc.aio.AbortError(code)


def asked(service=""):
    return pb.HealthCheckRequest(service=service)


def test_the_answer_is_that_of_now():
    """Not serving until told otherwise; services that are not there are NOT_FOUND."""

    async def play():
        health = Health("mine")
        assert (await health.Check(asked(), Context())).status == STATUS.NOT_SERVING
        health.tell(is_serving=True)
        assert (await health.Check(asked("mine"), Context())).status == STATUS.SERVING
        with pytest.raises(grpc.aio.AbortError, match="NOT_FOUND"):
            await health.Check(asked("other"), Context())

    asyncio.run(play())


def test_who_watches_is_told_of_changes_and_let_go():
    """Each change is told once, to everyone, whether or not the others take it; then all end."""

    async def play():
        health = Health("mine")
        health.tell(is_serving=True)
        slow, quick = (health.Watch(asked(name), Context()) for name in ("", "mine"))
        unknown = health.Watch(asked("other"), Context())
        assert (await anext(slow)).status == (await anext(quick)).status == STATUS.SERVING
        assert (await anext(unknown)).status == STATUS.SERVICE_UNKNOWN
        waiting = asyncio.ensure_future(anext(quick))
        await asyncio.sleep(0)
        health.tell(is_serving=True)
        await asyncio.sleep(0)
        assert not waiting.done()
        health.tell(is_serving=False)
        assert (await waiting).status == STATUS.NOT_SERVING
        health.end()
        for watch in (slow, quick, unknown):
            with pytest.raises(grpc.aio.AbortError, match="UNAVAILABLE"):
                await anext(watch)

    asyncio.run(play())
