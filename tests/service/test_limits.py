"""What a running server refuses at once or lets wait: too many calls, too large headers."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import losswire
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_proto.v1 import loss_service_pb2_grpc
from losswire_server import LocalServer, runtime
from losswire_server.admission import Admission, Room
from losswire_server.service import client_of, turn_of
from served import LONG, Served


def test_streams_and_headers():
    """RESOURCE_EXHAUSTED: with a delay for streams, without for headers, which never fit."""
    with (
        LocalServer(engine="numpy", max_streams=2, max_metadata_bytes=2048) as server,
        losswire.Client(server.target) as client,
        grpc.insecure_channel(server.target) as channel,
    ):
        client.softmax(np.zeros((2, 3)))  # opens one, which is its share
        stub = loss_service_pb2_grpc.LossServiceStub(channel)
        with losswire.Client(server.target, transport="stream") as other:
            other.softmax(np.zeros((2, 3)))
        with (
            losswire.Client(server.target, transport="stream", retries=False) as third,
            losswire.Client(server.target) as second,
        ):
            second.softmax(np.zeros((2, 3)))
            with pytest.raises(losswire.ServerBusy, match="2 of 2 streams") as caught:
                third.softmax(np.zeros((2, 3)))
            assert caught.value.retry_delay > 0
        with pytest.raises(grpc.RpcError) as refused:
            stub.GetServerInfo(pb.GetServerInfoRequest(), metadata=[("x", "y" * 4000)])
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "grpc-retry-pushback-ms" not in dict(refused.value.trailing_metadata() or ())
        with (
            losswire.Client(server.target, token="y" * 4000) as greedy,
            pytest.raises(losswire.InvalidInput),
        ):
            greedy.server_info()


def test_calls_of_one_connection(server):
    """So many are taken at a time, whatever they are; the next waits for the end of one."""
    with grpc.insecure_channel(server.target) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        ask = health_pb2.HealthCheckRequest()
        # Calls that end with their client alone, and that no other limit counts.
        watching = [stub.Watch(ask, timeout=LONG) for _ in range(runtime._CALLS_OF_A_CONNECTION)]
        for call in watching:
            assert next(call).status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(ask, timeout=0.5)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        with losswire.Client(server.target) as other:
            assert other.softmax(np.zeros((2, 3))).shape == (2, 3)
        watching[0].cancel()
        assert stub.Check(ask, timeout=LONG).status == health_pb2.HealthCheckResponse.SERVING
        for call in watching:
            call.cancel()


def test_more_calls_than_one_connection_takes_are_all_answered(server):
    """They wait at the client, not refused by either side."""

    async def play():
        async with losswire.AsyncClient(server.target, transport="inline") as client:
            calls = [client.softmax(np.zeros((2, 3))) for _ in range(3000)]
            return await asyncio.gather(*calls)

    assert len(asyncio.run(play())) == 3000


@pytest.mark.parametrize("rpc", ["Compute", "ComputeMany"])
def test_a_full_server_does_not_read_what_it_refuses(rpc):
    """What is refused for its number costs no parsing: not even a bad request is found out."""
    served, bad = Served(), pb.ComputeRequest()
    served.admission = Admission(Room(1 << 30, requests=1))

    def code(stub):
        try:
            if rpc == "Compute":
                return stub.Compute(bad, timeout=LONG).ByteSize()
            message = pb.ComputeManyRequest(requests=[pb.ManyRequest(id=1, request=bad)])
            (reply,) = stub.ComputeMany(iter([message]), timeout=LONG)
            return reply.responses[0].error.code
        except grpc.RpcError as error:
            return error.code().value[0]

    with (
        served,
        losswire.Client(served.target, transport="inline", timeout=LONG) as client,
        grpc.insecure_channel(served.target) as channel,
    ):
        stub = loss_service_pb2_grpc.LossServiceStub(channel)
        assert code(stub) == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        served.engine.gate.clear()
        first = threading.Thread(target=client.softmax, args=(np.zeros((2, 3)),))
        first.start()
        served.engine.wait_for_batch()
        refused = code(stub)
        served.engine.gate.set()
        first.join()
        assert refused == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]


@pytest.mark.parametrize("transport", ["auto", "inline", "stream"])
def test_turns_at_one_unix_socket(transport, tmp_path):
    """What one client has waiting there does not stand before the first request of another."""
    waiting = 6
    with Served(unix_socket=tmp_path / "socket") as served, ExitStack() as stack:
        options = {"transport": transport, "timeout": LONG}
        greedy, modest, other = (
            stack.enter_context(losswire.Client(served.target, **options)) for _ in range(3)
        )
        served.engine.gate.clear()
        calls = stack.enter_context(ThreadPoolExecutor(waiting + 3))
        answers = []
        # Other classes each, so that no two share a batch; first as many as compute at a time.
        for classes in (3, 4):
            answers.append(calls.submit(other.softmax, np.zeros((1, classes))))
            served.engine.wait_for_batch()
        answers += [calls.submit(greedy.softmax, np.zeros((2, 50 + n))) for n in range(waiting)]
        while len(served._batcher._groups) < waiting:
            pass
        answers.append(calls.submit(modest.softmax, np.zeros((3, 90))))
        while len(served._batcher._groups) < waiting + 1:
            pass
        served.engine.gate.set()
        for answer in answers:
            answer.result()
    order = [rows for rows in served.engine.rows if rows > 1]
    assert order.index(3) <= 2


@pytest.mark.parametrize(
    ("peer", "metadata", "turn"),
    [
        ("ipv4:127.0.0.1:5", (("losswire-client", "a"),), "ipv4:127.0.0.1:5"),
        ("unix:", (("losswire-client", "a"),), ("unix:", "a")),
        ("unix:", (("other", "a"),), "unix:"),
        ("unix:", None, "unix:"),
        ("unix:", (("losswire-client", "a" * 65),), "unix:"),
    ],
)
def test_whose_turn(peer, metadata, turn):
    """A connection's own name goes before what a client says; what is too long is not kept."""

    class Context:
        def peer(self):
            return peer

        def invocation_metadata(self):
            return metadata

    assert turn_of(peer, Context()) == turn
    assert client_of(Context()) == peer
