"""Computing that crashes: whoever waits is told, health says so, and the process ends."""

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import losswire
from losswire_server.batcher import Batcher
from losswire_server.engine.numpy_engine import NumpyEngine
from threaded import ThreadedServer

LOGITS = np.zeros((4, 3), np.float32)


class Fragile:
    """NumPy's engine until it is told to crash."""

    name = device = "fragile"
    registrar = None

    def __init__(self, quick_bytes):
        self.quick_bytes = quick_bytes
        self.crash = None
        self._engine = NumpyEngine(threads=1)

    def compute(self, requests):
        if self.crash is not None:
            return self.crash()
        return self._engine.compute(requests)

    def close(self):
        self._engine.close()


class Server(ThreadedServer):
    """Serves over an engine until it ends by itself."""

    def __init__(self, monkeypatch, engine):
        super().__init__(monkeypatch, lambda *_arguments: (engine, "a test's"))


def exits():
    raise SystemExit("a thread's end")


def loses_results():
    return []


@pytest.mark.parametrize("quick_bytes", [0, 1 << 20], ids=["on a thread", "on the loop"])
@pytest.mark.parametrize("crash", [exits, loses_results])
def test_a_crash_is_noticed(monkeypatch, quick_bytes, crash):
    """The call is UNAVAILABLE, who watches health sees NOT_SERVING, and serving ends with why."""
    engine = Fragile(quick_bytes)
    server = Server(monkeypatch, engine)
    with (
        losswire.Client(server.target, retries=False, timeout=20) as client,
        grpc.insecure_channel(server.target) as channel,
    ):
        watched = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watched).status == health_pb2.HealthCheckResponse.SERVING
        client.softmax(LOGITS)
        engine.crash = crash
        with pytest.raises(losswire.ServerUnavailable, match="computing has failed") as told:
            client.softmax(LOGITS)
        # In the words of an error may be what somebody sent.
        assert not any(words in str(told.value) for words in ("a thread's end", "0 results"))
        assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.RpcError):
            next(watched)
    assert str(server.join()).startswith("stopped, because computing has failed: ")


def test_a_fault_of_the_batcher_itself(monkeypatch):
    """What fails on the event loop, outside of any call, ends the server likewise."""
    server = Server(monkeypatch, Fragile(0))

    def fail(_batcher, _now):
        raise KeyError("a fault")

    with losswire.Client(server.target, retries=False, timeout=20) as client:
        monkeypatch.setattr(Batcher, "_dispatch_quick", fail)
        with pytest.raises(losswire.ServerUnavailable, match="KeyError"):
            client.softmax(LOGITS)
    assert "KeyError" in str(server.join())
