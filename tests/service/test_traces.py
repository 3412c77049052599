"""Traces and request ids: what an operator follows a call by."""

import json
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_proto.v1 import loss_service_pb2_grpc

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@contextmanager
def collector():
    """Takes spans as a collector does; the list fills as they come."""
    spans = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = ExportTraceServiceRequest.FromString(body)
            for resource in request.resource_spans:
                about = {each.key: each.value.string_value for each in resource.resource.attributes}
                for scope in resource.scope_spans:
                    spans.extend((about, span) for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            """Says nothing."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}", spans
        server.shutdown()


def served(*flags, environment=None):
    """The log lines of a server that is asked a few things and then ended."""
    command = [sys.executable, "-m", "losswire", "serve", "--engine", "numpy", "--port", "0"]
    command += ["--log-format", "json", "--log-level", "debug", *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            lines = [json.loads(process.stderr.readline())]
            while lines[-1]["event"] != "serving":
                lines.append(json.loads(process.stderr.readline()))
            with grpc.insecure_channel(lines[-1]["target"]) as channel:
                stub = loss_service_pb2_grpc.LossServiceStub(channel)
                parent = ("traceparent", f"00-{TRACE}-{PARENT}-01")
                ours, theirs = ("x-request-id", "worker-3.17"), ("x-request-id", "two words")
                stub.GetServerInfo(pb.GetServerInfoRequest(), metadata=[parent, ours])
                with pytest.raises(grpc.RpcError):
                    stub.Compute(pb.ComputeRequest(), metadata=[theirs])
        finally:
            process.terminate()
            rest = process.communicate(timeout=60)[0 if process.stderr is None else 1]
    return lines + [json.loads(line) for line in rest.splitlines()]


def test_calls_are_spans_of_whoever_made_them():
    """Each has its method; the one whose metadata names a parent is its child."""
    with collector() as (url, spans):
        served("--tracing", environment={"OTEL_EXPORTER_OTLP_ENDPOINT": url})
    named = {span.name: (about, span) for about, span in spans}
    assert set(named) == {
        "/losswire.v1.LossService/GetServerInfo",
        "/losswire.v1.LossService/Compute",
    }
    about, child = named["/losswire.v1.LossService/GetServerInfo"]
    assert about["service.name"] == "losswire"
    assert (child.trace_id.hex(), child.parent_span_id.hex()) == (TRACE, PARENT)
    _, other = named["/losswire.v1.LossService/Compute"]
    assert other.trace_id.hex() != TRACE
    attributes = {each.key: each.value.int_value for each in other.attributes}
    assert attributes["rpc.grpc.status_code"] == grpc.StatusCode.INVALID_ARGUMENT.value[0]


def test_lines_of_a_call_have_its_id():
    """The caller's, if it is one; other text of strangers is not for logs."""
    calls = [line for line in served() if line["event"] == "call"]
    assert [(each["method"], each["status"]) for each in calls] == [
        ("GetServerInfo", "OK"),
        ("Compute", "INVALID_ARGUMENT"),
    ]
    assert calls[0]["request_id"] == "worker-3.17"
    assert len(calls[1]["request_id"]) == 16
    assert calls[1]["request_id"].isalnum()
