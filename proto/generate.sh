#!/bin/sh
# Regenerates the Python code of the contract beside its .proto files. Called by `make proto`.
set -eu
python=$1
cd "$(dirname "$0")"
"$python" -m grpc_tools.protoc -I . --python_out=. --pyi_out=. --grpc_python_out=. \
    losswire_proto/v1/*.proto
# tensor.proto and options.proto have no service: their _pb2_grpc modules would be empty.
rm losswire_proto/v1/tensor_pb2_grpc.py losswire_proto/v1/options_pb2_grpc.py
