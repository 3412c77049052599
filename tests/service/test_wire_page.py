"""The request that docs/wire.md shows for grpcurl, sent as it stands there."""

import json
import re
from pathlib import Path

import grpc
from google.protobuf import json_format

from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_proto.v1 import loss_service_pb2_grpc

PAGE = Path(__file__).parents[2] / "docs/wire.md"


def test_the_shown_request_has_the_shown_answer(server):
    """JSON in and base64 out, as grpcurl would."""
    page = PAGE.read_text(encoding="utf-8")
    (shown,) = re.findall(
        r"-d '(\{.*?\})' localhost:50051 losswire\.v1\.LossService/Compute", page, re.DOTALL
    )
    (data,) = re.findall(r"The answer's `perExample.data` is `([^`]*)`", page)
    request = json_format.Parse(shown, pb.ComputeRequest())
    with grpc.insecure_channel(server.target) as channel:
        reply = loss_service_pb2_grpc.LossServiceStub(channel).Compute(request, timeout=30)
    answer = json.loads(json_format.MessageToJson(reply))
    assert answer["perExample"] == {"dtype": "DATA_TYPE_FLOAT32", "shape": ["2"], "data": data}
