"""Shared memory at the wire: what any client, also a hostile one, can say and do."""

import ctypes
import os
import threading

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

import losswire
from gated import GatedServer
from losswire_proto import tensors, wire
from losswire_proto.losses import LossCall, SoftmaxCrossEntropy
from losswire_proto.rules import Spec
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_proto.v1 import loss_service_pb2_grpc
from losswire_server import LocalServer, validation
from losswire_server.errors import NotAllowed
from shared_memory import PROOF, SharedFile, held_by, wait_until

SIZE = 1 << 20
ROWS, CLASSES = 40, 30
LOGITS_AT, LABELS_AT, ROWS_AT = 64, 1 << 14, 1 << 15
LOGITS = np.random.default_rng(0).normal(size=(ROWS, CLASSES)).astype(np.float32)
IDS = np.arange(ROWS) % CLASSES
REFUSAL = "process_file: expected a process of the server's user and pid namespace"
_FALLOC_KEEP_SIZE, _FALLOC_PUNCH_HOLE = 1, 2


@pytest.fixture(scope="module")
def gated():
    """A server whose engine is held at a gate while a test wants it."""
    with GatedServer() as running:
        yield running


@pytest.fixture(autouse=True)
def _open_gate(gated):
    yield
    gated.open()


@pytest.fixture(scope="module", params=["server", "gated"])
def stub(request):
    """Of a server in another process, and of one in this process."""
    target = request.getfixturevalue(request.param).target
    with grpc.insecure_channel(target) as channel:
        yield loss_service_pb2_grpc.LossServiceStub(channel)


@pytest.fixture
def file(stub):
    with SharedFile(SIZE) as made:
        yield made.open(stub)
        stub.CloseRegion(pb.CloseRegionRequest(region_id=made.id))


def request_of(file, call=None, logits_at=LOGITS_AT, **places):
    """A request with logits and ids in the region, and results at offsets of it."""
    call = call or LossCall(SoftmaxCrossEntropy(), grad_logits=True)
    message = pb.ComputeRequest(options=wire.encode_call(call))
    message.logits.CopyFrom(file.put(LOGITS, logits_at))
    message.labels.CopyFrom(file.put(IDS, LABELS_AT))
    specs = {"grad_logits": Spec.of(LOGITS), "per_example": Spec(LOGITS.dtype, (ROWS,))}
    for name, offset in places.items():
        getattr(message.destinations, name).CopyFrom(file.slice(specs[name], offset))
    return message


def whole(stub):
    """The answer to the same request without regions."""
    message = pb.ComputeRequest(
        options=wire.encode_call(LossCall(grad_logits=True)),
        logits=tensors.encode("logits", LOGITS),
        labels=tensors.encode("labels", IDS),
    )
    answer = stub.Compute(message)
    return answer.grad_logits.data, answer.per_example.data


def failure(call, message):
    with pytest.raises(grpc.RpcError) as caught:
        call(message)
    return caught.value.code(), caught.value.details()


def test_results_are_written_where_they_are_wanted(stub, file):
    """What has a destination lies there and nowhere else; the rest is in the answer."""
    grad, losses = whole(stub)
    answer = stub.Compute(request_of(file, grad_logits=LOGITS_AT, per_example=ROWS_AT))
    assert not answer.ListFields()
    assert file.array(np.uint8, (len(grad),), LOGITS_AT).tobytes() == grad
    assert file.array(np.uint8, (len(losses),), ROWS_AT).tobytes() == losses
    answer = stub.Compute(request_of(file, per_example=LABELS_AT))
    assert answer.grad_logits.data == grad
    assert not answer.HasField("per_example")
    assert file.array(np.uint8, (len(losses),), LABELS_AT).tobytes() == losses
    assert np.array_equal(file.array(LOGITS.dtype, LOGITS.shape, LOGITS_AT), LOGITS)


def test_requests_at_once_in_one_region(stub, file):
    """Requests that share a region, each its own part, get their own results."""
    grad, _ = whole(stub)
    places = [(1 << 16) + (number << 13) for number in range(12)]
    messages = [request_of(file, logits_at=place, grad_logits=place) for place in places]
    futures = [stub.Compute.future(message) for message in messages]
    for future, place in zip(futures, places, strict=True):
        future.result(60)
        assert file.array(np.uint8, (len(grad),), place).tobytes() == grad


def test_a_region_that_is_closed_is_not_found(stub):
    """Ids are NOT_FOUND once they have been closed, in requests and for closing again."""
    with SharedFile(SIZE) as file:
        file.open(stub)
        message, closing = request_of(file), pb.CloseRegionRequest(region_id=file.id)
        stub.CloseRegion(closing)
        for call, sent in ((stub.Compute, message), (stub.CloseRegion, closing)):
            code, words = failure(call, sent)
            assert code is grpc.StatusCode.NOT_FOUND
            assert "expected the id of an open region" in words


def test_what_cannot_be_opened(stub, server):
    """Nothing can be found out of other processes, and what is wrong with one's own is said."""
    code = grpc.StatusCode
    with SharedFile(SIZE) as file, SharedFile(SIZE, seals=0) as shrinking:
        answers = {
            failure(stub.OpenRegion, file.announcement(**fields))
            for fields in (
                *({"pid": pid} for pid in (0, -1, 1, 2**40, server.pid)),
                *({"fd": fd} for fd in (-1, 0, 2, 2**31 - 1)),
                *({"proof": proof} for proof in (b"", PROOF[:-1], PROOF[::-1])),
                {"fd": shrinking.fd, "proof": bytes(32)},
            )
        }
        assert {each[0] for each in answers} == {code.PERMISSION_DENIED}
        assert {each[1][: len(REFUSAL)] for each in answers} == {REFUSAL}
        assert len(answers) == 1
        sizes = {0, 1, 31, SIZE + 1, 2**40, 2**64 - 1}
        for size in sizes:
            status, words = failure(stub.OpenRegion, file.announcement(size_bytes=size))
            assert status is code.INVALID_ARGUMENT
            assert f"received {size}" in words
        status, words = failure(stub.OpenRegion, shrinking.announcement())
        assert (status, "F_SEAL_SHRINK" in words) == (code.INVALID_ARGUMENT, True)
        nothing = pb.OpenRegionRequest(size_bytes=SIZE, proof=PROOF)
        assert failure(stub.OpenRegion, nothing)[0] is code.INVALID_ARGUMENT
        named = pb.OpenRegionRequest(shared_file="../etc/passwd", size_bytes=SIZE, proof=PROOF)
        status, words = failure(stub.OpenRegion, named)
        assert (status, "shared_directory" in words) == (code.UNIMPLEMENTED, True)


def test_streams_take_no_regions(stub, file):
    """A stream has tensors of its own; a slice in its first message is refused by field."""
    start = pb.ComputeStreamStart(
        options=wire.encode_call(LossCall()),
        logits_spec={"dtype": 3, "shape": LOGITS.shape},
        labels=file.put(IDS, LABELS_AT),
    )
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.ComputeStream(iter([pb.ComputeStreamRequest(start=start)])))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "labels.region: expected" in caught.value.details()


@pytest.mark.parametrize(
    ("peer", "is_here"),
    [
        ("unix:", True), ("unix:/run/losswire.sock", True), ("ipv4:127.0.0.1:5000", True),
        ("ipv6:%5B::1%5D:5000", True), ("ipv6:[::1]:5000", True), ("ipv4:10.0.0.7:5000", False),
        ("ipv6:%5B2001:db8::1%5D:5000", False), ("ipv4:12.7.0.1:5000", False), ("", False),
    ],
)  # fmt: skip
def test_only_peers_on_this_host(peer, is_here):
    """A client elsewhere may not share memory, whatever it names."""
    with SharedFile(SIZE) as file:
        payload = file.announcement().SerializeToString()
    if is_here:
        assert validation.parse_region(payload, peer, SIZE).process_file.pid == os.getpid()
    for limit, refused in ((SIZE, not is_here), (0, True)):
        if refused:
            with pytest.raises(NotAllowed, match="shares no memory with this client"):
                validation.parse_region(payload, peer, limit)


def punch(file):
    """Takes all pages of a file away; its size stays."""
    libc = ctypes.CDLL(None, use_errno=True)
    mode, size = _FALLOC_KEEP_SIZE | _FALLOC_PUNCH_HOLE, ctypes.c_long(file.size)
    if libc.fallocate(file.fd, mode, ctypes.c_long(0), size):
        pytest.skip("this kernel punches no holes into memory")


@pytest.mark.parametrize("change", ["ids", "hole", "cut off"])
def test_memory_that_changes_while_the_server_computes(gated, change):
    """The server reads what is there, never outside: neither it nor another client is harmed."""
    with grpc.insecure_channel(gated.target) as channel, SharedFile(SIZE) as file:
        stub = loss_service_pb2_grpc.LossServiceStub(channel)
        grad, losses = whole(stub)
        file.open(stub)
        gated.hold()
        future = stub.Compute.future(request_of(file, per_example=ROWS_AT))
        gated.wait_until_entered()
        if change == "ids":
            file.array(IDS.dtype, IDS.shape, LABELS_AT)[...] = 10**15
        elif change == "hole":
            punch(file)
        else:
            with pytest.raises(PermissionError):
                os.ftruncate(file.fd, 0)
        gated.open()
        answer = future.result(60)
        written = file.array(np.float32, (ROWS,), ROWS_AT)
        if change == "hole":
            np.testing.assert_allclose(written, np.log(CLASSES), rtol=1e-6)
        else:
            assert written.tobytes() == losses
            assert answer.grad_logits.data == grad
        assert whole(stub) == (grad, losses)


def test_calls_that_use_all_room(gated):
    """While calls use all that a process may share, another region waits for its turn."""
    with grpc.insecure_channel(gated.target) as channel, SharedFile(SIZE) as file:
        stub = loss_service_pb2_grpc.LossServiceStub(channel)
        before, limit = gated.regions._limit, 2 * SIZE
        gated.regions._limit = limit
        other, third = SharedFile(SIZE), SharedFile(SIZE)
        gated.hold()
        futures = [stub.Compute.future(request_of(each.open(stub))) for each in (file, other)]
        for _ in futures:
            gated.wait_until_entered()
        with pytest.raises(grpc.RpcError) as caught:
            third.open(stub)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        detail = error_details_pb2.RetryInfo()
        assert rpc_status.from_call(caught.value).details[0].Unpack(detail)
        assert detail.retry_delay.ToMilliseconds() == 50
        gated.open()
        for future in futures:
            future.result(60)
        assert third.open(stub).id
        gated.regions._limit = before
        for each in (other, third):
            each.close()


def test_nothing_is_left_open():
    """Threads that announce good and bad memory leave the server nothing but what is open."""
    with (
        LocalServer(engine="numpy") as server,
        losswire.Client(server.target) as watcher,
        grpc.insecure_channel(server.target) as channel,
    ):
        stub = loss_service_pb2_grpc.LossServiceStub(channel)
        watcher.server_info()

        def announce():
            with SharedFile(1 << 13) as file:
                for _ in range(15):
                    region_id = stub.OpenRegion(file.announcement()).region_id
                    for fields in ({"proof": bytes(32)}, {"fd": 0}, {"pid": 2**40}):
                        failure(stub.OpenRegion, file.announcement(**fields))
                    stub.CloseRegion(pb.CloseRegionRequest(region_id=region_id))

        threads = [threading.Thread(target=announce) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wait_until(lambda: not held_by(server.pid, "memfd:test"), watcher)
