"""Shared memory is for peers of this host: what a client that comes another way can do with it."""

import socket

import grpc
import numpy as np
import pytest

import losswire
from losswire_proto import wire
from losswire_proto.losses import LossCall
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_proto.v1 import loss_service_pb2_grpc
from losswire_server import LocalServer
from pem import Authority
from shared_memory import PROOF, SharedFile, held_by

SIZE = 1 << 14
LOGITS, IDS = np.zeros((4, 8), np.float32), np.zeros(4, np.int64)


def address_of_this_machine():
    """One that is not loopback; a datagram socket finds it out and sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no address but loopback")
        return probe.getsockname()[0]


def test_who_comes_by_a_reachable_address_shares_nothing():
    """The announcement is refused though pid, file and proof are right; the call goes as bytes."""
    address = address_of_this_machine()
    with LocalServer(engine="numpy", host=address, insecure=True) as server:
        with grpc.insecure_channel(server.target) as channel, SharedFile(SIZE) as file:
            stub = loss_service_pb2_grpc.LossServiceStub(channel)
            with pytest.raises(grpc.RpcError) as caught:
                stub.OpenRegion(file.announcement())
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED
            assert "shares no memory with this client" in caught.value.details()
        with losswire.Client(server.target) as client:
            assert client.softmax_cross_entropy(LOGITS, IDS).loss.shape == (4,)
        assert not held_by(server.pid, "memfd:")


def test_tls_on_loopback_may_share(tmp_path):
    """A peer is judged by where it comes from, also through TLS with a certificate."""
    authority = Authority(tmp_path)
    settings = authority.write_server() | {"tls_client_ca": authority.file}
    with (
        LocalServer(engine="numpy", **settings) as server,
        losswire.Client(server.target, transport="shared", tls=authority.client()) as client,
    ):
        assert client.softmax_cross_entropy(LOGITS, IDS).loss.shape == (4,)


def test_a_region_is_reached_by_its_id_alone(server):
    """Another client that knows memory's place, size and proof, but not its id, gets nothing."""
    with (
        grpc.insecure_channel(server.target) as ours,
        grpc.insecure_channel(server.target, [("grpc.use_local_subchannel_pool", 1)]) as theirs,
        SharedFile(SIZE) as file,
        SharedFile(SIZE) as other,
    ):
        owner = loss_service_pb2_grpc.LossServiceStub(ours)
        stranger = loss_service_pb2_grpc.LossServiceStub(theirs)
        file.open(owner)
        other.open(stranger)
        assert len(file.id) >= 22, "an id has to be beyond guessing: 128 bits"
        message = pb.ComputeRequest(options=wire.encode_call(LossCall(grad_logits=True)))
        message.logits.CopyFrom(file.put(LOGITS, 64))
        message.labels.CopyFrom(file.put(IDS, 1024))
        for guess in (str(file.fd), PROOF.hex(), file.id[:-1], file.id + "A", file.id.swapcase()):
            message.logits.region.region_id = guess
            with pytest.raises(grpc.RpcError) as caught:
                stranger.Compute(message)
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
            with pytest.raises(grpc.RpcError) as caught:
                stranger.CloseRegion(pb.CloseRegionRequest(region_id=guess))
            assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        # Nor by way of a region of one's own.
        message.logits.region.region_id = other.id
        message.logits.region.offset = SIZE - 8
        with pytest.raises(grpc.RpcError) as caught:
            stranger.Compute(message)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "within the region's" in caught.value.details()
        for each in (file, other):
            owner.CloseRegion(pb.CloseRegionRequest(region_id=each.id))
