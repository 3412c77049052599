"""What a running server refuses at once: too many streams, too large headers."""

import grpc
import numpy as np
import pytest

import losswire
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_proto.v1 import loss_service_pb2_grpc
from losswire_server import LocalServer


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
