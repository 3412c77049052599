"""A server that says it is not well, and still answers: with another beside it nobody asks it."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

import losswire
from losswire._calls import SERVICE


class Unwell(grpc.GenericRpcHandler):
    """Takes calls, notes them, and fails them for good."""

    def __init__(self):
        self.asked = []

    def service(self, details):
        if not details.method.startswith(f"/{SERVICE}/"):
            return None
        self.asked.append(details.method)
        return grpc.unary_unary_rpc_method_handler(self._fail)

    def _fail(self, _request, context):
        context.abort(grpc.StatusCode.INTERNAL, "it should not have been asked")


@pytest.fixture
def unwell():
    """It, its address, and what its health says."""
    handler, said = Unwell(), health.HealthServicer()
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((handler,))
    health_pb2_grpc.add_HealthServicer_to_server(said, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield handler, f"127.0.0.1:{port}", said
    server.stop(None).wait()


def test_calls_go_to_those_that_are_well(server, unwell):
    """In turns, among those whose health says SERVING."""
    handler, address, said = unwell
    said.set(SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)
    target = f"ipv4:{address},{server.target}"
    with losswire.Client(target, transport="inline", retries=False) as client:
        for _ in range(20):
            assert client.softmax(np.zeros((2, 4))).shape == (2, 4)
    assert handler.asked == []


def test_the_other_would_have_been_asked(server, unwell):
    """If it said that it is well; so the test above sees what it looks for."""
    handler, address, said = unwell
    said.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
    target = f"ipv4:{address},{server.target}"
    with losswire.Client(target, transport="inline", retries=False) as client:
        while not handler.asked:
            with suppress(losswire.ServerError):
                client.softmax(np.zeros((2, 4)))
    assert handler.asked == [f"/{SERVICE}/Compute"]
