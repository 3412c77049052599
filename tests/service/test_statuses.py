"""What the running service answers beside results: statuses, health, reflection, information."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from grpc_status import rpc_status

import losswire
from losswire_proto import __version__
from losswire_proto.losses import LOSSES
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_proto.v1 import loss_service_pb2_grpc, options_pb2
from losswire_server import LocalServer, runtime
from losswire_server.errors import StartupError

SERVICE = "losswire.v1.LossService"


@pytest.fixture
def channel(server):
    with grpc.insecure_channel(server.target) as connected:
        yield connected


def test_options_of_later_versions_say_so(channel):
    """An option of a later contract answers UNIMPLEMENTED by number."""
    stub = loss_service_pb2_grpc.LossServiceStub(channel)
    own = options_pb2.LossOptions(softmax_cross_entropy=options_pb2.SoftmaxCrossEntropyOptions())
    # field 999, as a client of a later contract might set it
    options = options_pb2.LossOptions.FromString(own.SerializeToString() + b"\xb8\x3e\x01")
    request = pb.ComputeRequest(options=options, logits={"dtype": 3}, labels={"dtype": 3})
    with pytest.raises(grpc.RpcError) as caught:
        stub.Compute(request)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "options: this server does not know field 999" in caught.value.details()


def test_server_info(client):
    """A client learns what the server is, can do and allows."""
    info = client.server_info()
    assert info.version == __version__
    assert info.backend == "numpy"
    assert "NumPy" in info.device
    assert info.dtypes == ("float16", "bfloat16", "float32", "float64")
    assert info.losses == tuple(LOSSES)
    assert info.limits["queue_bytes"] == 2 << 30


def test_health_and_reflection(channel):
    """The standard health service says SERVING; reflection lists the services."""
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", SERVICE):
        answer = health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert SERVICE in ProtoReflectionDescriptorDatabase(channel).get_services()


def test_a_full_queue_is_refused_with_a_delay():
    """Beyond queue_bytes a request gets RESOURCE_EXHAUSTED at once, RetryInfo and pushback."""
    logits = np.zeros((64, 1024), np.float32)  # 256 KiB, and as much again for its gradient
    refusals, lock = [], threading.Lock()

    with (
        LocalServer(
            engine="numpy", threads=1, queue_bytes=600 * 1024, max_message_bytes=600 * 1024
        ) as server,
        losswire.Client(server.target, transport="inline", retries=False) as client,
    ):

        def hammer():
            for _ in range(40):
                try:
                    client.softmax_cross_entropy(logits, np.zeros(64, np.int8))
                except losswire.ServerBusy as error:
                    with lock:
                        refusals.append(error)

        threads = [threading.Thread(target=hammer) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # The room is free again when all of them are done.
        client.softmax_cross_entropy(logits, np.zeros(64, np.int8))
        with pytest.raises(losswire.InvalidInput, match="at most 614400 bytes"):
            client.softmax_cross_entropy(np.zeros((70, 1024)), np.zeros(70, np.int8))
    assert refusals, "eight clients never filled a queue that holds one request"
    error = refusals[0]
    assert "614400 bytes are taken" in str(error)
    assert error.retry_delay == pytest.approx(0.05)
    detail = error_details_pb2.RetryInfo()
    assert rpc_status.from_call(error.__cause__).details[0].Unpack(detail)
    assert detail.retry_delay.ToMilliseconds() == 50


def test_a_message_beyond_the_limit_is_the_callers_mistake():
    """gRPC's own refusal of a large message is not taken for a full queue."""
    with (
        LocalServer(engine="numpy", max_message_bytes=4096) as server,
        losswire.Client(server.target) as client,
        pytest.raises(losswire.InvalidInput, match=r"larger than .* accepts in one message"),
    ):
        client.softmax_cross_entropy(np.zeros((100, 100)), np.zeros(100, np.int8))


def test_sigterm_drains():
    """On SIGTERM calls in flight finish, new ones get UNAVAILABLE, and the process ends with 0."""
    command = [sys.executable, "-m", "losswire", "serve", "--port", "0", "--log-format", "json"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    lines = iter(process.stderr.readline, "")
    serving = next(line for line in lines if '"serving"' in line)
    target = serving.split('"target": "')[1].split('"')[0]
    logits = np.random.default_rng(0).normal(size=(4000, 1000)).astype(np.float32)
    labels = np.zeros(4000, np.int16)
    outcomes, started = [], threading.Event()

    def call_until_refused():
        with losswire.Client(target, retries=False) as client:
            while True:
                try:
                    outcomes.append(client.softmax_cross_entropy(logits, labels))
                except losswire.LosswireError as error:
                    outcomes.append(error)
                    return
                finally:
                    started.set()

    threads = [threading.Thread(target=call_until_refused) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert started.wait(60)
    process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join()
    rest = list(lines)
    assert process.wait(30) == 0
    process.stderr.close()
    errors = [each for each in outcomes if isinstance(each, Exception)]
    assert [type(error) for error in errors] == [losswire.ServerUnavailable] * 3, errors
    results = [each for each in outcomes if not isinstance(each, Exception)]
    assert results
    assert all(np.array_equal(each.loss, results[0].loss) for each in results)
    assert any('"drained": true' in line for line in rest)


class SlowReader:
    """A proxy whose client takes the first bytes of a reply, and the rest when it is told to."""

    def __init__(self, target):
        host, port = target.rsplit(":", 1)
        self.paused, self.resume = threading.Event(), threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._server = socket.create_connection((host, int(port)))
        self.target = "127.0.0.1:%d" % self._listener.getsockname()[1]  # noqa: UP031 -- shorter
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        client, _ = self._listener.accept()
        upward = threading.Thread(target=self._forward, args=(client, self._server))
        with client:
            upward.start()
            self._forward(self._server, client, pause_after=1 << 20)
            upward.join()

    def _forward(self, source, sink, pause_after=None):
        forwarded = 0
        # Either side may be gone before the last window update reaches it.
        with contextlib.suppress(OSError):
            while chunk := source.recv(1 << 16):
                sink.sendall(chunk)
                forwarded += len(chunk)
                if pause_after is not None and forwarded >= pause_after:
                    self.paused.set()
                    assert self.resume.wait(60)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def close(self):
        self._thread.join()
        self._listener.close()
        self._server.close()


def test_sigterm_waits_for_replies_on_their_way():
    """A reply that the client is still taking when SIGTERM comes arrives whole."""
    command = [sys.executable, "-m", "losswire", "serve", "--port", "0", "--log-format", "json"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    lines = iter(process.stderr.readline, "")
    serving = next(line for line in lines if '"serving"' in line)
    reader = SlowReader(serving.split('"target": "')[1].split('"')[0])
    logits = np.random.default_rng(1).normal(size=(6000, 2000)).astype(np.float32)
    labels = np.zeros(6000, np.int16)
    results = []

    def call():
        with losswire.Client(reader.target, transport="inline") as client:
            results.append(client.softmax_cross_entropy(logits, labels))

    thread = threading.Thread(target=call)
    thread.start()
    assert reader.paused.wait(60)
    process.send_signal(signal.SIGTERM)
    assert '"draining"' in next(lines)
    reader.resume.set()
    thread.join()
    rest = list(lines)
    assert process.wait(30) == 0
    process.stderr.close()
    reader.close()
    shifted = logits.astype(np.float64)
    expected = np.log(np.exp(shifted).sum(axis=1)) - shifted[:, 0]
    np.testing.assert_allclose(results[0].loss, expected, rtol=1e-6)
    assert any('"drained": true' in line for line in rest)


def test_sigterm_does_not_wait_for_ever():
    """A reply that its client does not take is given up after `drain_seconds`."""
    command = [sys.executable, "-m", "losswire", "serve", "--port", "0", "--log-format", "json"]
    command += ["--drain-seconds", "0.1"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    lines = iter(process.stderr.readline, "")
    serving = next(line for line in lines if '"serving"' in line)
    reader = SlowReader(serving.split('"target": "')[1].split('"')[0])
    logits, labels = np.zeros((6000, 2000), np.float32), np.zeros(6000, np.int16)
    errors = []

    def call():
        with losswire.Client(reader.target, transport="inline", retries=False) as client:
            try:
                client.softmax_cross_entropy(logits, labels)
            except losswire.LosswireError as error:
                errors.append(type(error))

    thread = threading.Thread(target=call)
    thread.start()
    assert reader.paused.wait(60)
    process.send_signal(signal.SIGTERM)
    rest = list(lines)
    assert process.wait(60) == 0
    reader.resume.set()
    thread.join()
    process.stderr.close()
    reader.close()
    assert any('"drained": false' in line for line in rest)
    assert errors == [losswire.ServerUnavailable]


def test_a_connection_that_grpc_cannot_end_ends_with_the_process(monkeypatch):
    """Where gRPC waits for ever, as it may for a reply that is stuck, the server does not."""

    class Stuck:
        """A server whose connections do not go."""

        async def stop(self, grace):
            asked.append(grace)
            await asyncio.Event().wait()

    asked = []
    monkeypatch.setattr(runtime, "_CANCEL_SECONDS", 0.0)
    asyncio.run(asyncio.wait_for(runtime._end(Stuck(), None), 60))
    assert asked == [None]


def test_settings_are_logged_at_start():
    """The effective configuration, the engine and the reason for it stand in the log."""
    command = [sys.executable, "-m", "losswire", "serve", "--port", "0", "--max-wait-us", "77"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    head = [process.stderr.readline() for _ in range(3)]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert "max_wait_us=77" in head[0]
    assert "wanted=auto" in head[1]
    assert "reason=" in head[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--engine", "cupy"], "engine: cupy cannot be used: "),
        (["--port", "-1"], "port: "),
        (["--unix-socket", "/nowhere/at/all.sock"], "cannot listen on unix:/nowhere/at/all.sock"),
    ],
)
def test_what_cannot_start_says_so_in_one_line(arguments, words):
    """A server that cannot start ends with status 2 and one line that says why."""
    command = [sys.executable, "-m", "losswire", "serve", "--log-level", "error", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    said = [line for line in ended.stderr.splitlines() if line.startswith("losswire serve: ")]
    assert len(said) == 1
    assert words in said[0]
    assert "Traceback" not in ended.stderr


def test_a_taken_port_is_refused(server):
    """Two servers do not share a port."""
    port = int(server.target.rsplit(":", 1)[1])
    with pytest.raises(
        StartupError, match=f"cannot listen on 127.0.0.1:{port}: Address already in use"
    ):
        LocalServer(engine="numpy", port=port)


def test_unix_sockets(tmp_path):
    """A Unix socket serves; a second server does not take it away; a killed one's is replaced."""
    path = tmp_path / "losswire.sock"
    logits, ids = [[2.0, 1.0, 0.5]], [0]
    for _ in range(2):
        with LocalServer(engine="numpy", unix_socket=path) as server:
            assert server.target == f"unix:{path}"
            with losswire.Client(server.target) as client:
                assert client.softmax_cross_entropy(logits, ids).loss.shape == (1,)
                with pytest.raises(StartupError, match="another server answers there"):
                    LocalServer(engine="numpy", unix_socket=path)
                assert client.softmax_cross_entropy(logits, ids).loss.shape == (1,)
            os.kill(server.pid, signal.SIGKILL)
        assert path.is_socket(), "a killed server leaves its socket behind"
