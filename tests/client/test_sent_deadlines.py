"""Whatever a client asks of a server bears a deadline, also where nobody has named one."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import grpc
import numpy as np
import pytest

import losswire
from losswire import _shared
from losswire_proto.v1 import loss_service_pb2 as pb

LOGITS, IDS = np.zeros((2, 3), np.float32), np.array([0, 1])
UNARY = {"Compute", "GetServerInfo", "OpenRegion", "CloseRegion"}


class Listening(grpc.GenericRpcHandler):
    """Notes by method what time calls are given; would share memory, and refuses all else."""

    def __init__(self):
        self.seconds = {}
        boot_id, namespace = _shared._host()
        self.info = pb.GetServerInfoResponse(
            limits=pb.ServerLimits(max_region_bytes=1 << 20),
            host=pb.HostIdentity(boot_id=boot_id, pid_namespace=namespace),
        )

    def service(self, details):
        name = details.method.rpartition("/")[2]
        if name in UNARY:
            return grpc.unary_unary_rpc_method_handler(
                lambda _payload, context: self.note(name, context.time_remaining(), context)
            )

        def stream(messages, context):
            first = next(messages)
            remaining = context.time_remaining()
            if name == "ComputeMany":  # one call for as long as the client lives
                [request] = pb.ComputeManyRequest.FromString(first).requests
                remaining = request.timeout_ms / 1000
            yield self.note(name, remaining, context)

        return grpc.stream_stream_rpc_method_handler(stream)

    def note(self, name, remaining, context):
        self.seconds[name] = remaining
        if name == "GetServerInfo":
            return self.info.SerializeToString()
        return context.abort(grpc.StatusCode.INVALID_ARGUMENT, "noted")


@pytest.fixture
def server():
    """Its target, and what it notes."""
    listening, serving = Listening(), grpc.server(ThreadPoolExecutor(4))
    serving.add_generic_rpc_handlers([listening])
    target = f"127.0.0.1:{serving.add_insecure_port('127.0.0.1:0')}"
    serving.start()
    yield target, listening.seconds
    serving.stop(None).wait()


def asked(target, transport, **timeout):
    """One call of the client."""
    with losswire.Client(target, transport=transport, **timeout) as client:
        client.softmax_cross_entropy(LOGITS, IDS)


def asked_async(target, transport, **timeout):
    """One call of the asynchronous client."""

    async def ask():
        async with losswire.AsyncClient(target, transport=transport, **timeout) as client:
            await client.softmax_cross_entropy(LOGITS, IDS)

    asyncio.run(ask())


def asked_about(target, _transport, **timeout):
    """What the server is."""
    with losswire.Client(target, **timeout) as client:
        client.server_info()


@pytest.mark.parametrize(("timeout", "seconds"), [({}, 30.0), ({"timeout": 70.0}, 70.0)])
@pytest.mark.parametrize(
    ("ask", "transport", "method"),
    [
        (asked, "inline", "Compute"),
        (asked, "stream", "ComputeStream"),
        (asked, "shared", "OpenRegion"),
        (asked_async, "inline", "Compute"),
        (asked_async, "stream", "ComputeStream"),
        (asked_async, "auto", "ComputeMany"),
        (asked_async, "shared", "OpenRegion"),
        (asked_about, "", "GetServerInfo"),
    ],
)
def test_every_call_has_a_deadline(server, ask, transport, method, timeout, seconds):
    """The client's timeout, 30 s unless it was told another; less only what has passed."""
    target, noted = server
    with suppress(losswire.InvalidInput):
        ask(target, transport, **timeout)
    # Servers may count from a moment before the client does: gRPC rounds up what it sends.
    assert seconds - 15 < noted[method] < seconds + 1, noted
