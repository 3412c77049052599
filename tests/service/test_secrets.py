"""Contents stay where they belong: no log line and no reply carries tensors, tokens or tracebacks.

Every kind of error is provoked with requests whose contents are marked, as bytes and as numbers.
A message may name what its own sender got wrong, such as one class id; that is all.
"""

import contextlib
import io
import sys

import grpc
import numpy as np
import pytest
import structlog

from losswire_proto import tensors, wire
from losswire_proto.losses import LossCall
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_server import LocalServer, logs
from losswire_server.config import load_settings
from messages import BYTES, field
from pem import replace
from served import Served

TOKEN = "marked-token-of-the-server"  # noqa: S105 -- it opens nothing
WRONG = "marked-token-of-nobody"
MARK = b"marked-bytes-that-nobody-may-see"
NUMBER = 987654.25
LOGITS = np.full((4, 8), NUMBER)
TEXTS = np.frombuffer(MARK, np.int8)
CODE = grpc.StatusCode


def request(logits=LOGITS, labels=None, **tensors_by_name):
    labels = np.arange(len(logits)) if labels is None else labels
    message = pb.ComputeRequest(
        options=wire.encode_call(LossCall(grad_logits=True)),
        logits=tensors.encode("logits", logits),
        labels=tensors.encode("labels", labels),
    )
    for name, array in tensors_by_name.items():
        getattr(message, name).CopyFrom(tensors.encode(name, array))
    return message


def later(message, number=999):
    """A message with a field of a later contract, which holds marked bytes."""
    return type(message).FromString(message.SerializeToString() + field(number, BYTES, MARK))


def of_a_later_option():
    message = request()
    message.options.CopyFrom(later(message.options))
    return message


def of_a_region(region_id, name="logits"):
    message = request()
    getattr(message, name).ClearField("data")
    getattr(message, name).region.region_id = region_id
    getattr(message, name).region.length = LOGITS.nbytes
    return message


def start():
    described = tensors.describe("logits", tensors.Spec.of(LOGITS))
    return pb.ComputeStreamRequest(
        start=pb.ComputeStreamStart(
            options=wire.encode_call(LossCall()),
            logits_spec={"dtype": described.dtype, "shape": described.shape},
            labels=tensors.encode("labels", np.arange(4)),
        )
    )


def blocks(*sent):
    return iter([start(), *(pb.ComputeStreamRequest(block=block) for block in sent)])


MISTAKES = {
    "labels of another shape": ("Compute", request(labels=TEXTS), CODE.INVALID_ARGUMENT),
    "class ids out of range": ("Compute", request(labels=TEXTS[:4]), CODE.INVALID_ARGUMENT),
    "weights of another shape": (
        "Compute",
        request(sample_weight=np.full(7, NUMBER)),
        CODE.INVALID_ARGUMENT,
    ),
    "too few bytes": (
        "Compute",
        pb.ComputeRequest(logits={"dtype": 4, "shape": [4, 8], "data": MARK}),
        CODE.INVALID_ARGUMENT,
    ),
    "no message": ("Compute", b"\xff" + MARK, CODE.INVALID_ARGUMENT),
    "a later option": ("Compute", of_a_later_option(), CODE.UNIMPLEMENTED),
    "no region": ("Compute", of_a_region("none"), CODE.NOT_FOUND),
    "too large": ("Compute", request(np.full((64, 128), NUMBER)), CODE.RESOURCE_EXHAUSTED),
    "more than is ever admitted": (
        "Compute",
        request(np.full((50, 80), NUMBER)),
        CODE.INVALID_ARGUMENT,
    ),
    "no such method": ("Guess", MARK, CODE.UNIMPLEMENTED),
    "a stream of no message": ("ComputeStream", iter([MARK]), CODE.INVALID_ARGUMENT),
    "a block that is none": (
        "ComputeStream",
        blocks(pb.RowBlock(first_row=0, rows=4, logits=MARK)),
        CODE.INVALID_ARGUMENT,
    ),
    "a block in the wrong place": (
        "ComputeStream",
        blocks(pb.RowBlock(first_row=2, rows=2, logits=LOGITS[:2].tobytes())),
        CODE.INVALID_ARGUMENT,
    ),
    "many of no message": ("ComputeMany", iter([b"\xff" + MARK]), CODE.INVALID_ARGUMENT),
    "memory of nobody": (
        "OpenRegion",
        pb.OpenRegionRequest(process_file={"pid": 1, "fd": 0}, size_bytes=4096, proof=MARK),
        CODE.PERMISSION_DENIED,
    ),
}


def reply_to(target, method, message, token=TOKEN, timeout=30):
    """All that a client is told: status, details, metadata, or the messages."""
    path = f"/losswire.v1.LossService/{method}"
    metadata = (("authorization", f"Bearer {token}"),)

    def as_bytes(sent):
        return sent if isinstance(sent, bytes) else sent.SerializeToString()

    with grpc.insecure_channel(target) as channel:
        try:
            if method in {"ComputeStream", "ComputeMany"}:
                call = channel.stream_stream(path, as_bytes)
                return None, repr(list(call(message, timeout, metadata)))
            return None, repr(channel.unary_unary(path, as_bytes)(message, timeout, metadata))
        except grpc.RpcError as error:
            told = (error.details(), error.initial_metadata(), error.trailing_metadata())
            return error.code(), repr(told)


def assert_clean(text):
    """None of the marks, in any form they could take in text."""
    forms = (
        TOKEN, WRONG, "marked", MARK.hex(), "987654", str(list(TEXTS[:8]))[1:-1],
        repr(LOGITS[0, :1].tobytes())[2:-1], "PRIVATE KEY",
    )  # fmt: skip
    assert [form for form in forms if form in text] == []


@contextlib.contextmanager
def structlog_restored():
    before = structlog.get_config()
    try:
        yield
    finally:
        structlog.configure(**before)


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """A server with small limits that logs all it can, and what it has logged."""
    folder = tmp_path_factory.mktemp("watched")
    log = (folder / "log").open("w+", encoding="utf-8")
    settings = {
        "token_file": replace(folder / "tokens", TOKEN.encode()),
        "log_level": "debug", "log_format": "json",
        "queue_bytes": 40_000, "max_message_bytes": 40_000,
    }  # fmt: skip
    with log, LocalServer(engine="numpy", log=log, **settings) as server:

        def logged():
            return (folder / "log").read_text(encoding="utf-8")

        yield server, logged


@pytest.mark.parametrize(("method", "message", "code"), MISTAKES.values(), ids=MISTAKES)
def test_no_mistake_is_answered_with_contents(watched, method, message, code):
    """The status is that of the mistake; neither the reply nor the log has the request's marks."""
    server, logged = watched
    received, told = reply_to(server.target, method, message)
    assert received is code, told
    assert_clean(told)
    assert "Traceback" not in told
    assert ".py" not in told
    assert_clean(logged())


def test_tokens_are_told_to_nobody(watched):
    """Neither a good one nor a wrong one comes back, or stands in the log with the settings."""
    server, logged = watched
    for token in (WRONG, TOKEN[:-1], f"{TOKEN} {WRONG}"):
        received, told = reply_to(server.target, "Compute", request(), token)
        assert received is CODE.UNAUTHENTICATED
        assert_clean(told)
    received, _ = reply_to(server.target, "Compute", request())
    assert received is None
    assert '"settings"' in logged()
    assert_clean(logged())


def test_a_deadline_is_told_without_contents(capfd):
    """A call that ran out of time hears of the time alone."""
    with Served() as served:
        served.engine.gate.clear()
        received, told = reply_to(served.target, "Compute", request(), timeout=0.2)
        served.engine.gate.set()
    assert received is CODE.DEADLINE_EXCEEDED
    assert_clean(told)
    assert_clean("".join(capfd.readouterr()))


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_fault_of_ours_is_a_number_to_the_caller(monkeypatch, log_format):
    """The log has the traceback, without any variables; the caller has a number to ask about."""
    log = io.StringIO()
    monkeypatch.setattr(sys, "stderr", log)
    with structlog_restored(), Served() as served:
        logs.configure(load_settings(log_format=log_format))

        def compute(requests):
            raise RuntimeError("a secret of the server")

        served.engine.compute = compute
        for method, message in (
            ("Compute", request()),
            ("ComputeStream", blocks(pb.RowBlock(rows=4, logits=LOGITS.tobytes()))),
        ):
            received, told = reply_to(served.target, method, message)
            assert received is CODE.INTERNAL
            assert "the server failed; its log has the cause under " in told
            assert "secret" not in told
            assert "RuntimeError" not in told
            assert "Traceback" not in told
            number = told.split("under ")[1][:12]
            logged = log.getvalue()
            assert number in logged
            assert "a secret of the server" in logged
            assert "Traceback" in logged
            assert_clean(logged)


def test_draining_is_told_without_contents():
    """Whoever comes while the server ends is told that it does."""
    with Served() as served:
        served.admission._is_draining = True
        received, told = reply_to(served.target, "Compute", request())
    assert received is CODE.UNAVAILABLE
    assert_clean(told)
