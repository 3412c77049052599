"""Replies to results: the bytes of a `ComputeResponse` to arrays of the caller's own.

A reply that differs from an earlier one in its elements alone is not parsed again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from losswire_proto import codec, tensors
from losswire_proto.rules import InvalidField, Spec
from losswire_proto.skeleton import Skeletons
from losswire_proto.v1 import loss_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Mapping

    from losswire._requests import Asked
    from losswire._results import Outputs
    from losswire_proto.codec import Path
    from losswire_proto.dtypes import Array

_NAMES = {each.number: each.name for each in pb.ComputeResponse.DESCRIPTOR.fields}


@dataclass(frozen=True, slots=True)
class _Part:
    """One result in replies of a kind: where it begins and what it looks like."""

    name: str
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class ReplyReader:
    """Reads replies, and remembers the kinds it has met."""

    def __init__(self) -> None:
        self._kinds: Skeletons[list[_Part]] = Skeletons(pb.ComputeResponse)

    def read(self, payload: bytes, asked: Asked) -> Outputs:
        """What a `ComputeResponse` holds, by the names of its fields.

        Raises:
            DecodeError, InvalidField: it is not what the contract says.
        """
        parts = self._kinds.find(payload)
        outputs: Outputs
        if parts is None:
            outputs = parse(payload, asked)
            spans = self._kinds.spans(payload)
            if spans is not None and len(spans) == len(outputs):
                self._kinds.add(payload, spans, _parts(outputs, spans))
        else:
            outputs = {
                part.name: _taken(
                    part.name, np.ndarray(part.shape, part.dtype, payload, part.offset), asked
                )
                for part in parts
            }
        return outputs


def _parts(outputs: Outputs, spans: Mapping[Path, slice]) -> list[_Part]:
    names = [_NAMES[path[0]] for path in spans]
    return [
        _Part(name, span.start, outputs[name].dtype, outputs[name].shape)
        for name, span in zip(names, spans.values(), strict=True)
    ]


def _taken(name: str, result: Array, asked: Asked) -> Array:
    """A result that looks into a reply, as an array of the caller's own."""
    if name == "grad_logits" and asked.overwritten is not None:
        return _overwrite(asked.overwritten, result)
    return result.copy()


def _overwrite(logits: Array, gradient: Array) -> Array:
    """The logits, which hold their gradient now.

    Raises:
        InvalidField: it is another array's.
    """
    if gradient.shape != logits.shape or gradient.dtype != logits.dtype.newbyteorder("<"):
        raise InvalidField("reply.grad_logits", f"{Spec.of(logits)}", Spec.of(gradient))
    np.copyto(logits, gradient)
    return logits


def parse(payload: bytes, asked: Asked) -> Outputs:
    """The same for a reply of any kind."""
    message, views = codec.parse(pb.ComputeResponse, payload)
    outputs: Outputs = {}
    for descriptor, _ in message.ListFields():
        name = descriptor.name
        array = tensors.decode_field(f"reply.{name}", message, name, views)
        outputs[name] = _taken(name, array, asked)
    return outputs
