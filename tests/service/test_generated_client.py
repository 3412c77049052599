"""A client that knows the .proto files and nothing else gets right answers."""

import subprocess
import sys
from pathlib import Path

import pytest

PROTO = Path(__file__).parents[2] / "proto"

CLIENT = '''
"""Knows only what protoc made of the .proto files."""
import struct
import sys

import grpc
from losswire_proto.v1 import loss_service_pb2 as pb, loss_service_pb2_grpc as rpc
from losswire_proto.v1 import options_pb2 as options, tensor_pb2 as tensor

assert sys.argv[1] in pb.__file__, "not the code made for this test"
assert not [name for name in sys.modules if name in ("losswire", "losswire_server", "numpy")]

request = pb.ComputeRequest(
    options=options.LossOptions(
        softmax_cross_entropy=options.SoftmaxCrossEntropyOptions(),
        reduction=options.REDUCTION_MEAN,
        grad_logits=True,
    ),
    logits=tensor.Tensor(
        dtype=tensor.DATA_TYPE_FLOAT64, shape=[2, 3],
        data=struct.pack("<6d", 2.0, 1.0, 0.5, 1.0, 0.5, 0.0),
    ),
    labels=tensor.Tensor(
        dtype=tensor.DATA_TYPE_INT32, shape=[2], data=struct.pack("<2i", 0, 1)
    ),
)
with grpc.insecure_channel(sys.argv[2]) as channel:
    response = rpc.LossServiceStub(channel).Compute(request, timeout=30)
assert response.grad_logits.shape == [2, 3]
assert response.loss.dtype == tensor.DATA_TYPE_FLOAT64
numbers = struct.unpack("<d", response.loss.data)
numbers += struct.unpack("<2d", response.per_example.data)
numbers += struct.unpack("<6d", response.grad_logits.data)
print(*numbers)
'''


def test_a_client_of_generated_code_alone(server, tmp_path):
    """Code made from the .proto files, without losswire or NumPy, computes the worked example."""
    files = [str(path.relative_to(PROTO)) for path in sorted(PROTO.rglob("*.proto"))]
    assert len(files) == 3
    out = [f"--python_out={tmp_path}", f"--grpc_python_out={tmp_path}"]
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", *out, *files]
    subprocess.run(protoc, check=True, timeout=60)
    for package in ("losswire_proto", "losswire_proto/v1"):
        (tmp_path / package / "__init__.py").touch()
    script = tmp_path / "client.py"
    script.write_text(CLIENT, encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, str(script), str(tmp_path), server.target],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    expected = [0.8223192273748398, 0.4643687841079449, 1.1802696706417346]
    gradient = [-0.37146828078823757, 0.23122389762214904, 0.14024438316608848]
    gradient += [0.506480391055654, -0.6928041142815016, 0.1863237232258476]
    expected += [each / 2 for each in gradient]
    assert [float(word) for word in ran.stdout.split()] == pytest.approx(expected, rel=1e-14)
