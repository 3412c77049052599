"""The standard health service: whether calls are taken, asked once or watched.

In: the one status that the whole server has. Out: answers, and to those who watch, each change.
Nobody who watches keeps another from being told, nor the server from ending: a client that balances
between servers watches each of them for as long as it is connected.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Health(health_pb2_grpc.HealthServicer):
    """Answers for the server as a whole and for the services named."""

    def __init__(self, *services: str) -> None:
        self._services = {"", *services}
        self._is_serving = self._is_over = False
        self._changed = asyncio.Event()

    def tell(self, *, is_serving: bool) -> None:
        """Says from now on whether calls are taken."""
        self._is_serving = is_serving
        self._wake()

    def end(self) -> None:
        """Ends the calls of those who watch."""
        self._is_over = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _answer(self) -> pb.HealthCheckResponse:
        statuses = pb.HealthCheckResponse
        status = statuses.SERVING if self._is_serving else statuses.NOT_SERVING
        return pb.HealthCheckResponse(status=status)

    async def Check(  # noqa: N802 -- the contract's name
        self, request: pb.HealthCheckRequest, context: Any
    ) -> pb.HealthCheckResponse:
        """Answers once."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service!r} here")
        return self._answer()

    async def Watch(  # noqa: N802 -- the same
        self, request: pb.HealthCheckRequest, context: Any
    ) -> AsyncIterator[pb.HealthCheckResponse]:
        """Answers now and after each change."""
        is_known = request.service in self._services
        unknown = pb.HealthCheckResponse(status=pb.HealthCheckResponse.SERVICE_UNKNOWN)
        told = None
        while not self._is_over:
            answer = self._answer() if is_known else unknown
            changed = self._changed
            if answer != told:
                told = answer
                yield answer
            await changed.wait()
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the server stops")
