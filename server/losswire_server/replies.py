"""Results to messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from losswire_proto import codec, tensors
from losswire_proto.v1 import loss_service_pb2 as pb

if TYPE_CHECKING:
    from losswire_proto.dtypes import Array
    from losswire_server.requests import LossRequest, LossResult

_BLOCK: Final = pb.ComputeStreamResponse.DESCRIPTOR.fields_by_name["block"].number
_ROWS: Final = pb.ResultBlock.DESCRIPTOR.fields_by_name["rows"].number


def encode_compute(request: LossRequest, result: LossResult) -> bytes:
    """The bytes of the `ComputeResponse` that carries what has not been written elsewhere."""
    arrays = _arrays(result)
    if request.destinations:
        arrays = {name: arrays[name] for name in arrays if name not in request.destinations}
    return tensors.write(pb.ComputeResponse, b"", arrays, {})


def draft_block(request: LossRequest) -> tuple[bytes, dict[str, Array]]:
    """The `ComputeStreamResponse` of a block's results, and where in it these are to be written."""
    first_row = 0 if request.block is None else request.block.first_row
    head = pb.ResultBlock(first_row=first_row, rows=len(request.logits))
    fields, specs = head.DESCRIPTOR.fields_by_name, request.result_specs
    writer = codec.Writer()
    room = [(fields[name].number, spec) for name, spec in specs.items()]
    writer.add((_BLOCK,), head, _ROWS, room)
    payload, arrays = writer.draft()
    return payload, dict(zip(specs, arrays, strict=True))


def encode_summary(rows: int, loss: Array | None, grad_labels: Array | None) -> bytes:
    """The bytes of the `ComputeStreamResponse` that ends a stream."""
    summary = pb.ComputeStreamSummary(rows=rows)
    for name, array in (("loss", loss), ("grad_labels", grad_labels)):
        if array is not None:
            getattr(summary, name).CopyFrom(tensors.encode(name, np.asarray(array)))
    return pb.ComputeStreamResponse(summary=summary).SerializeToString()


def _arrays(result: LossResult) -> dict[str, Array]:
    """The results that are there, by the names of their fields and in their order."""
    results = {"loss": result.loss, "per_example": result.per_example, **result.extras}
    results |= {
        "grad_labels": result.grad_labels,
        "output": result.output,
        "grad_logits": result.grad_logits,
    }
    return {name: array for name, array in results.items() if array is not None}
