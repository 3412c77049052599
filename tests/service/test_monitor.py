"""The pages beside a running server: what was asked of it is counted, by method and by status."""

import asyncio
import contextlib
import gc
import http.client
import re
import socket
import weakref
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

import losswire
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_proto.v1 import loss_service_pb2_grpc
from losswire_server.admission import Admission, Room
from losswire_server.errors import InvalidRequest
from losswire_server.metrics import Metrics
from losswire_server.service import LossService
from monitored import monitored
from service.test_startup import said_by

LOGITS, IDS = np.zeros((6, 5), np.float32), np.zeros(6, np.int64)


@pytest.fixture(scope="module")
def server():
    with monitored() as running:
        yield running


def difference(server, act):
    """What `act` adds to each value."""
    before = server.values()
    act()
    after = server.values()
    return {key: value - before.get(key, 0) for key, value in after.items()}


def test_each_path_is_counted(server):
    """Calls by method and status, rows, bytes and batches, whatever way the tensors took."""
    nbytes = LOGITS.nbytes

    def call():
        for transport in ("inline", "stream", "shared"):
            with losswire.Client(server.target, transport=transport) as client:
                client.softmax_cross_entropy(LOGITS, IDS)

    added = difference(server, call)
    assert added["losswire_requests_total", "Compute", "OK"] == 2
    assert added["losswire_requests_total", "ComputeStream", "OK"] == 1
    assert added["losswire_requests_total", "OpenRegion", "OK"] >= 1
    assert added["losswire_call_seconds_count", "ComputeStream"] == 1
    assert added["losswire_received_bytes_total", "ComputeStream"] > nbytes
    assert added["losswire_sent_bytes_total", "ComputeStream"] > nbytes
    # The logits and gradient that lay in shared memory are in no message.
    assert nbytes < added["losswire_received_bytes_total", "Compute"] < 2 * nbytes + 2000
    assert added["losswire_rows_total",] == 18
    assert added["losswire_computed_bytes_total",] >= 3 * 2 * nbytes
    assert added["losswire_batch_requests_sum",] == 3
    assert added["losswire_engine_seconds_count",] == added["losswire_queue_wait_seconds_count",]


def test_small_calls_are_counted_one_by_one(server):
    """Those that share a stream, by how each of them ended."""

    def call():
        with losswire.Client(server.target) as client:
            for _ in range(3):
                client.softmax_cross_entropy(LOGITS, IDS)

    added = difference(server, call)
    assert added["losswire_requests_total", "ComputeMany/request", "OK"] == 3
    with grpc.insecure_channel(server.target) as channel:
        stub = loss_service_pb2_grpc.LossServiceStub(channel)
        wrong = pb.ComputeManyRequest(requests=[pb.ManyRequest(id=1)])
        added = difference(server, lambda: list(stub.ComputeMany(iter([wrong]))))
    assert added["losswire_requests_total", "ComputeMany/request", "INVALID_ARGUMENT"] == 1


def test_what_is_refused_is_counted_by_its_status(server):
    """Nothing is sent then, and no call hangs in the books."""
    with grpc.insecure_channel(server.target) as channel:
        stub = loss_service_pb2_grpc.LossServiceStub(channel)

        def call():
            with pytest.raises(grpc.RpcError):
                stub.Compute(pb.ComputeRequest())

        added = difference(server, call)
    assert added["losswire_requests_total", "Compute", "INVALID_ARGUMENT"] == 1
    assert added["losswire_sent_bytes_total", "Compute"] == 0
    assert server.values()["losswire_calls",] == 0
    assert server.values()["losswire_queue_bytes",] == 0


class ToldError(Exception):
    """What gRPC raises where a call has been ended."""


class Context:
    """A call that looks at the books when it is told how it ends."""

    def __init__(self, metrics):
        self._registry, self.counted = metrics.registry, []

    def invocation_metadata(self):
        return ()

    def add_done_callback(self, _callback):
        pass

    async def abort(self, status, *_details):
        labels = {"method": "any", "status": status.name}
        self.counted.append(self._registry.get_sample_value("losswire_requests_total", labels))
        raise ToldError


@pytest.mark.parametrize("error", [InvalidRequest("x"), ValueError("x")], ids=["refused", "fault"])
def test_what_fails_is_counted_before_the_caller_hears(error):
    """Whoever looks after an error finds it, of single messages and of streams."""
    metrics = Metrics()
    service = LossService(None, Admission(Room(1000)), None, None, None, metrics=metrics)
    single, stream = Context(metrics), Context(metrics)

    async def fail(_payload, _context):
        raise error

    async def fail_later(_messages, _context):
        yield b"one reply"
        raise error

    async def no_messages():
        return
        yield

    async def play():
        with pytest.raises(ToldError):
            await service._guarded("any", fail)(b"", single)
        with pytest.raises(ToldError):
            async for _ in service._guarded_stream("any", fail_later)(no_messages(), stream):
                pass

    asyncio.run(play())
    assert [*single.counted, *stream.counted] == [1, 2]


class Payload:
    """A message that can be seen to go."""

    def __len__(self):
        return 10


def test_a_refused_call_lets_go_of_its_message():
    """At once, not when the collector comes by: overloaded, a server refuses many large ones."""
    metrics = Metrics()
    service = LossService(None, Admission(Room(1000)), None, None, None, metrics=metrics)

    async def fail(_payload, _context):
        raise InvalidRequest("x")

    async def play():
        payload = Payload()
        seen = weakref.ref(payload)
        with contextlib.suppress(ToldError):
            await service._guarded("any", fail)(payload, Context(metrics))
        del payload
        return seen

    gc.disable()
    try:
        assert asyncio.run(play())() is None
    finally:
        gc.enable()


def test_prometheus_can_read_it(server):
    """In its own format, with what runs in labels, and the process's memory."""
    families = {each.name: each for each in text_string_to_metric_families(server.page("/metrics"))}
    (what,) = families["losswire_server"].samples
    assert what.labels["engine"] == "numpy"
    assert what.labels["version"] == losswire.__version__
    assert families["process_resident_memory_bytes"].samples[0].value > 1 << 20
    assert families["losswire_batch_rows"].type == "histogram"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 200), ("HEAD", "/", 200), ("GET", "/secret", 404), ("POST", "/metrics", 405)],
)
def test_nothing_else_is_there(server, method, path, status):
    """Three pages, to be read."""
    connection = http.client.HTTPConnection(urlsplit(server.url).netloc, timeout=30)
    connection.request(method, path)
    answer = connection.getresponse()
    assert answer.status == status
    assert bool(answer.read()) == (method == "GET")
    connection.close()


def test_pages_are_off_unless_asked_for_and_say_where_they_cannot_be():
    """One line that names the setting, as for all that cannot start."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        line = said_by("--port", "0", "--metrics-port", str(taken.getsockname()[1]))
    assert line.startswith("metrics_port: cannot listen on 127.0.0.1:")
    assert "Address already in use" in line
    line = said_by("--port", "0", "--metrics-port", "0", "--metrics-host", "nowhere.invalid")
    assert line.startswith("metrics_host: 'nowhere.invalid' is no address")


def test_the_page_names_every_metric(server):
    """docs/metrics.md lists what there is, and nothing else."""
    page = (Path(__file__).parents[2] / "docs/metrics.md").read_text(encoding="utf-8")
    table = page.split("## What is measured")[1].split("\n\n")[1]
    named = {name.removesuffix("_total") for name in re.findall(r"losswire_[a-z_]+", table)}
    families = text_string_to_metric_families(server.page("/metrics"))
    there = {each.name for each in families if each.name.startswith("losswire_")}
    named = {name for name in named if not name.startswith("losswire_gpu_")}
    assert named == {name for name in there if not name.endswith("_created")}
