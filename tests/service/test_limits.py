"""What a running server refuses at once: too many streams, too large headers."""

import threading

import grpc
import numpy as np
import pytest

import losswire
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_proto.v1 import loss_service_pb2_grpc
from losswire_server import LocalServer
from losswire_server.admission import Admission, Room
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
