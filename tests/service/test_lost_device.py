"""A GPU that is lost while the server runs: callers are told, and the process ends."""

import grpc
import numpy as np
import pytest
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc

import losswire
from gpu_served import GpuServer, failing_at_launch
from losswire_server import command
from losswire_server.engine.device import DeviceLost
from losswire_server.errors import ServingFailed


def server_of(monkeypatch, failing_launch):
    return GpuServer(monkeypatch, failing_at_launch(failing_launch, DeviceLost("ECC error")))


def test_a_lost_gpu_ends_the_server(monkeypatch):
    """Calls before it are answered, those after are UNAVAILABLE; then serving ends, saying why."""
    server = server_of(monkeypatch, failing_launch=2)
    logits, ids = np.zeros((4, 3), np.float32), np.zeros(4, np.int64)
    with losswire.Client(server.target, transport="inline", retries=False) as client:
        result = client.softmax_cross_entropy(logits, ids)
        np.testing.assert_allclose(result.per_example, np.log(3), rtol=1e-6)
        with pytest.raises(losswire.ServerUnavailable, match=r"GPU has failed.*ECC error"):
            client.softmax_cross_entropy(logits, ids)
    assert str(server.join()) == "stopped, because a GPU was lost: Fake GPU: ECC error"


def test_health_says_so(monkeypatch):
    """The health check, watched, turns NOT_SERVING when the GPU is lost."""
    server = server_of(monkeypatch, failing_launch=1)
    with grpc.insecure_channel(server.target) as channel:
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        with (
            losswire.Client(server.target, transport="inline", retries=False) as client,
            pytest.raises(losswire.ServerUnavailable),
        ):
            client.softmax(np.zeros((4, 3), np.float32))
        assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watched.cancel()
    server.join()


@pytest.fixture
def own_log():
    """What the command sets up for its process is undone: this test's standard error closes."""
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("own_log")
def test_the_process_ends_with_a_line(monkeypatch, capsys):
    """`losswire serve` ends with a status that is not 0 and one line that says why."""

    async def fail(_settings):
        raise ServingFailed("stopped, because a GPU was lost: H100: ECC error")

    monkeypatch.setattr(command, "_serve", fail)
    context = type("Context", (), {"args": ["--port", "0"]})()
    with pytest.raises(command.typer.Exit) as exit_:
        command.serve(context)
    assert exit_.value.exit_code == 1
    expected = "losswire serve: stopped, because a GPU was lost: H100: ECC error\n"
    assert capsys.readouterr().err == expected
