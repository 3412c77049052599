"""Bearer tokens between a client and a real server."""

import asyncio
import threading

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import losswire
from losswire_proto import wire
from losswire_proto.losses import LossCall, Softmax
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_proto.v1 import loss_service_pb2_grpc
from losswire_server import LocalServer
from losswire_server.service import SERVED
from pem import replace
from served import LONG

FIRST, SECOND, OTHER = "first-token-of-two", "second-token-of-two", "another-token-than-two"
LOGITS, IDS = [[2.0, 1.0, 0.5]], [0]


@pytest.fixture
def token_file(tmp_path):
    return replace(tmp_path / "tokens", f"{FIRST}\n{SECOND}\n".encode())


@pytest.fixture
def guarded(token_file):
    """A server that wants one of two tokens."""
    with LocalServer(engine="numpy", token_file=token_file) as running:
        yield running


def works(server, token):
    """Whether a client with this token gets a loss; what it is told where it does not."""
    with losswire.Client(server.target, token=token) as client:
        try:
            return client.softmax_cross_entropy(LOGITS, IDS).loss.shape == (1,)
        except losswire.Unauthenticated as error:
            return str(error)


def test_each_token_is_good_on_every_path(guarded):
    """Both clients, with either token, by one message, a stream and shared memory."""
    for token in (FIRST, SECOND):
        for transport in ("auto", "inline", "stream", "shared"):
            with losswire.Client(guarded.target, token=token, transport=transport) as client:
                assert client.softmax_cross_entropy(LOGITS, IDS).loss.shape == (1,)

    async def play():
        async with losswire.AsyncClient(guarded.target, token=FIRST) as client:
            return (await client.softmax_cross_entropy(LOGITS, IDS)).loss.shape

    assert asyncio.run(play()) == (1,)


def test_missing_and_wrong_sound_the_same(guarded):
    """No token, an unknown one and a part of a good one get the same words."""
    answers = {works(guarded, token) for token in (None, OTHER, FIRST[:-1], FIRST + "x")}
    assert len(answers) == 1
    (answer,) = answers
    assert "authorization: expected `Bearer`" in answer
    assert FIRST not in answer


@pytest.mark.parametrize("rpc", SERVED)
def test_no_rpc_is_open(guarded, rpc):
    """Each RPC of the service wants a token, before it looks at anything else."""
    with grpc.insecure_channel(guarded.target) as channel:
        stub = loss_service_pb2_grpc.LossServiceStub(channel)
        call = getattr(stub, rpc)
        message = getattr(pb, f"{rpc}Request")()
        is_stream = rpc in {"ComputeStream", "ComputeMany"}
        with pytest.raises(grpc.RpcError) as caught:
            list(call(iter([message]))) if is_stream else call(message)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_what_is_not_there_is_not_told(guarded):
    """A method that does not exist is refused like those that do."""
    with grpc.insecure_channel(guarded.target) as channel:
        for method in ("/losswire.v1.LossService/Secret", "/grpc.health.v1.Healthy/Check"):
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary(method)(b"")
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_health_is_open(guarded):
    """Whoever probes needs no token."""
    with grpc.insecure_channel(guarded.target) as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def services(target, token=None):
    """What reflection lists, or the status it answers."""
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    with grpc.insecure_channel(target) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        try:
            (answer,) = stub.ServerReflectionInfo(iter([request]), metadata=metadata)
        except grpc.RpcError as error:
            return error.code()
    return [service.name for service in answer.list_services_response.service]


def test_reflection_needs_a_token_and_can_be_switched_off(guarded, token_file):
    """The contract is shown to those who may call, and to nobody where it is off."""
    assert services(guarded.target) is grpc.StatusCode.UNAUTHENTICATED
    assert "losswire.v1.LossService" in services(guarded.target, SECOND)
    with LocalServer(engine="numpy", token_file=token_file, reflection=False) as silent:
        assert services(silent.target) is grpc.StatusCode.UNAUTHENTICATED
        assert services(silent.target, FIRST) is grpc.StatusCode.UNIMPLEMENTED


def test_tokens_are_rotated_without_a_restart(guarded, token_file):
    """A new file counts from the next call: what it adds is known, what it lacks is not."""
    assert works(guarded, SECOND) is True
    replace(token_file, f"{SECOND}\n{OTHER}\n".encode())
    assert works(guarded, OTHER) is True
    assert works(guarded, SECOND) is True
    assert works(guarded, FIRST) is not True


def open_streams(stub, token):
    """A call of each kind of stream, begun and answered once, and waiting for more from here."""
    metadata = (("authorization", f"Bearer {token}"),)
    more = threading.Event()

    def sent(*messages):
        yield from messages
        more.wait(LONG)

    spec = {"dtype": 3, "shape": [2, 3]}
    start = pb.ComputeStreamStart(options=wire.encode_call(LossCall(Softmax())), logits_spec=spec)
    calls = {
        "ComputeMany": [pb.ComputeManyRequest(requests=[pb.ManyRequest(id=1)])],
        "ComputeStream": [
            pb.ComputeStreamRequest(start=start),
            pb.ComputeStreamRequest(block=pb.RowBlock(first_row=0, rows=1, logits=bytes(12))),
        ],
    }
    opened = {
        rpc: getattr(stub, rpc)(sent(*messages), metadata=metadata, timeout=LONG)
        for rpc, messages in calls.items()
    }
    for call in opened.values():
        next(call)
    return opened, more


def test_streams_end_when_their_token_is_taken_out(guarded, token_file):
    """Without another call: those of the token that is gone, not those of the one that stays."""
    with grpc.insecure_channel(guarded.target) as channel:
        stub = loss_service_pb2_grpc.LossServiceStub(channel)
        ended, more = open_streams(stub, FIRST)
        going_on, more_of_others = open_streams(stub, SECOND)
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(
            listing(more), metadata=(("authorization", f"Bearer {FIRST}"),), timeout=LONG
        )
        next(reflection)
        replace(token_file, f"{SECOND}\n".encode())
        for call in (*ended.values(), reflection):
            with pytest.raises(grpc.RpcError) as caught:
                next(call)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert "not good any more" in caught.value.details()
        more.set()
        more_of_others.set()
        assert list(going_on["ComputeMany"]) == []
        with pytest.raises(grpc.RpcError) as caught:  # a row is missing, which is looked at last
            next(going_on["ComputeStream"])
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def listing(event):
    """One question for reflection, and no end before the event."""
    yield reflection_pb2.ServerReflectionRequest(list_services="")
    event.wait(LONG)


def test_a_client_whose_token_is_taken_out_amid_its_stream_is_told(guarded, token_file):
    """Small calls that share a stream are refused like those that do not."""
    with losswire.Client(guarded.target, token=FIRST) as client:
        client.softmax_cross_entropy(LOGITS, IDS)
        replace(token_file, f"{SECOND}\n".encode())
        assert works(guarded, FIRST) is not True  # the file has been looked at
        with pytest.raises(losswire.Unauthenticated):
            client.softmax_cross_entropy(LOGITS, IDS)


@pytest.mark.parametrize("contents", [b"", b"short"])
def test_a_file_that_turns_bad_locks_nobody_out(guarded, token_file, contents):
    """The tokens of before stay good, others do not become so."""
    replace(token_file, contents)
    assert works(guarded, FIRST) is True
    assert works(guarded, OTHER) is not True
    assert works(guarded, contents.decode() or None) is not True
    token_file.unlink()
    assert works(guarded, SECOND) is True
