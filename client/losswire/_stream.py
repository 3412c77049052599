"""The path of large tensors: rows in blocks, up and down at the same time.

Labels, weights and options go first; then each block is computed as it arrives and its results come
back while the next ones are on their way, so neither side holds more than a few blocks. A reduction
needs to know nothing of the logits before their gradient: what it divides by follows from labels
and weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from losswire._calls import Plan, Streamed
from losswire._errors import InvalidInput, ServerBusy, ServerUnavailable
from losswire._inline import LARGEST_MESSAGE
from losswire._retries import CannotRepeat
from losswire._rows import read_rows, row_view, write_rows
from losswire_proto import codec, dtypes, tensors, wire
from losswire_proto.rules import InvalidField, Spec
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_proto.v1 import tensor_pb2

if TYPE_CHECKING:
    from collections.abc import Iterator

    from losswire._requests import Asked
    from losswire._results import Outputs
    from losswire_proto.dtypes import Array

BLOCK_BYTES: Final = 4 << 20
"""Of logits in a block, but at least one row. A tensor of 32 MiB took 81, 65 and 63 ms in blocks of
1, 2 and 4 MiB: each block costs both sides about 0.7 ms besides its bytes."""

_ROWS: Final = 2
_LABELS: Final = 3
_LOGITS: Final = 15
"""Numbers of fields of `RowBlock`."""

_BLOCK: Final = 2
"""Of `ComputeStreamRequest`."""


def stream(asked: Asked) -> Plan[Outputs]:
    """Asks for one loss with the logits in blocks of rows.

    Raises:
        CannotRepeat: cut off when rows of the logits had been overwritten.
    """
    taker = _Taker(asked)
    try:
        yield Streamed("ComputeStream", _messages(asked), taker.take)
    except (ServerBusy, ServerUnavailable) as error:
        if taker.has_overwritten:
            raise CannotRepeat(error) from error.__cause__
        raise
    return taker.outputs()


def is_blockwise(asked: Asked) -> bool:
    """Whether the labels travel with the blocks: floats of the logits' own shape."""
    labels = asked.labels
    return asked.reading != "ids" and labels is not None and labels.shape == asked.logits.shape


def _messages(asked: Asked) -> Iterator[bytes]:
    # Not a generator itself: what cannot be sent is refused before the call begins.
    start = _start(asked)
    if start.ByteSize() > LARGEST_MESSAGE:
        raise InvalidInput(
            f"labels: expected labels and weights of at most {LARGEST_MESSAGE} bytes,"
            f" received {start.ByteSize()} bytes"
        )
    return _blocks(asked, pb.ComputeStreamRequest(start=start).SerializeToString())


def _start(asked: Asked) -> pb.ComputeStreamStart:
    start = pb.ComputeStreamStart(
        options=wire.encode_call(asked.call), logits_spec=_spec("logits", asked.logits)
    )
    for name, weight in asked.weights.items():
        getattr(start, name).CopyFrom(tensors.encode(name, weight))
    if asked.labels is not None and is_blockwise(asked):
        start.labels_spec.CopyFrom(_spec("labels", asked.labels))
    elif asked.labels is not None:
        start.labels.CopyFrom(tensors.encode("labels", asked.labels))
    return start


def _spec(field: str, array: Array) -> tensor_pb2.TensorSpec:
    described = tensors.describe(field, Spec.of(array))
    return tensor_pb2.TensorSpec(dtype=described.dtype, shape=described.shape)


def _blocks(asked: Asked, start: bytes) -> Iterator[bytes]:
    yield start
    axis = None if asked.call.loss.is_elementwise else asked.axis
    logits, labels = row_view(asked.logits, axis), None
    if asked.labels is not None and is_blockwise(asked):
        labels = row_view(asked.labels, axis)
    rows, classes = asked.rows, logits.shape[-1]
    step = max(1, BLOCK_BYTES // (classes * logits.dtype.itemsize))
    for first in range(0, rows, step):
        last = min(first + step, rows)
        arrays = [(_LOGITS, tensors.normalised(read_rows(logits, first, last)))]
        if labels is not None:
            arrays.insert(0, (_LABELS, tensors.normalised(read_rows(labels, first, last))))
        writer = codec.Writer()
        writer.add((_BLOCK,), pb.RowBlock(first_row=first, rows=last - first), _ROWS, arrays)
        yield writer.to_bytes()


class _Taker:
    """Puts the blocks that come back into arrays of the caller's own."""

    def __init__(self, asked: Asked) -> None:
        call, logits = asked.call, asked.logits
        self._asked = asked
        self._rows = 0
        self._summary: pb.ComputeStreamSummary | None = None
        self._views: dict[str, Array] = {}
        self._outputs: Outputs = {}
        axis = None if call.loss.is_elementwise else asked.axis
        if asked.reading != "none":
            dtype = dtypes.compute_dtype(logits.dtype)
            for name in ("per_example", *getattr(call.loss, "extras", ())):
                array = np.empty(asked.example_shape, np.int64 if name == "argmax" else dtype)
                self._add(name, array, None)
        if asked.reading == "none":
            self._add("output", np.empty(logits.shape, logits.dtype), axis)
        if call.grad_logits:
            taken = asked.overwritten
            grad = np.empty(logits.shape, logits.dtype) if taken is None else taken
            self._add("grad_logits", grad, axis)
        if call.grad_labels and asked.labels is not None and is_blockwise(asked):
            self._add("grad_labels", np.empty(asked.labels.shape, asked.labels.dtype), axis)

    def _add(self, name: str, array: Array, axis: int | None) -> None:
        self._outputs[name] = array
        self._views[name] = row_view(array, axis)

    @property
    def has_overwritten(self) -> bool:
        """Whether gradients lie where the caller's logits were."""
        return self._asked.overwritten is not None and self._rows > 0

    def take(self, payload: bytes) -> None:
        """Takes one message of the server.

        Raises:
            DecodeError, InvalidField: it is not what the contract says.
        """
        message, views = codec.parse(pb.ComputeStreamResponse, payload)
        if message.HasField("summary"):
            self._summary = message.summary
            return
        block = message.block
        first, last = block.first_row, block.first_row + block.rows
        if not self._rows == first < last <= self._asked.rows:
            expected = f"rows from {self._rows} on, of {self._asked.rows}"
            raise InvalidField("reply.block", expected, f"{first} to {last}")
        for name, view in self._views.items():
            number = block.DESCRIPTOR.fields_by_name[name].number
            data = views.get((1, number), getattr(block, name))
            spec = Spec(view.dtype.newbyteorder("<"), (block.rows, view.shape[-1]))
            write_rows(view, first, tensors.elements(f"reply.{name}", spec, data))
        self._rows = last

    def outputs(self) -> Outputs:
        """All results, once the stream has ended.

        Raises:
            InvalidField: it ended too soon.
        """
        if self._summary is None or self._rows != self._asked.rows:
            raise InvalidField("reply", f"{self._asked.rows} rows and a summary", self._rows)
        for descriptor, tensor in self._summary.ListFields():
            if descriptor.name != "rows":
                self._outputs[descriptor.name] = tensors.decode("reply", tensor).copy()
        return self._outputs
