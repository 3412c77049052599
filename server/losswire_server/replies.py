"""Results to messages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from losswire_proto import tensors
from losswire_proto.v1 import loss_service_pb2 as pb

if TYPE_CHECKING:
    from losswire_server.requests import LossResult


def encode_compute(result: LossResult) -> bytes:
    """The bytes of the `ComputeResponse` that carries a result."""
    response = pb.ComputeResponse()
    results = {"loss": result.loss, "per_example": result.per_example, **result.extras}
    results |= {
        "grad_labels": result.grad_labels,
        "output": result.output,
        "grad_logits": result.grad_logits,
    }
    for name, array in results.items():
        if array is not None:
            getattr(response, name).CopyFrom(tensors.encode(name, array))
    return response.SerializeToString()
