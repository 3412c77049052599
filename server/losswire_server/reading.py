"""Requests read the short way: those that differ from an earlier one in their elements alone.

In: the bytes of a `ComputeRequest`. Out: a `LossRequest`, as validation makes it. The first request
of a kind goes through validation as a whole; of the others only the elements are looked at, for all
else was found to be the same, byte by byte.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from losswire_proto import rules
from losswire_proto.rules import InvalidField, Spec
from losswire_proto.skeleton import Skeletons
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_server import validation
from losswire_server.errors import InvalidRequest
from losswire_server.regions import Regions
from losswire_server.requests import LossRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from losswire_proto.codec import Path
    from losswire_proto.dtypes import Array
    from losswire_proto.losses import LossCall
    from losswire_proto.options import Reading
    from losswire_server.requests import Form

_FIELDS: Final = {
    name: (pb.ComputeRequest.DESCRIPTOR.fields_by_name[name].number, 15)
    for name in ("labels", "logits", "sample_weight", "class_weight", "pos_weight")
}
"""Where the elements of each tensor are."""


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor of a known kind of request: where it begins, and what it looks like."""

    offset: int
    spec: Spec

    def read(self, payload: bytes) -> Array:
        """The elements in a message of that kind; a view where they are aligned."""
        array: Array = np.ndarray(self.spec.shape, self.spec.dtype, payload, self.offset)
        return array if array.flags.aligned else array.copy()


@dataclass(frozen=True, slots=True)
class _Kind:
    """What is known of requests that differ in their elements alone."""

    call: LossCall
    axis: int
    reading: Reading
    form: Form
    tensors: Mapping[str, _Tensor]

    @classmethod
    def of(cls, request: LossRequest, spans: Mapping[Path, slice]) -> _Kind | None:
        """The kind of a request; None if not all of its tensors are in the message."""
        tensors: dict[str, _Tensor] = {}
        for name, path in _FIELDS.items():
            array = getattr(request, name)
            if (array is None) != (path not in spans):
                return None
            if array is not None:
                tensors[name] = _Tensor(spans[path].start, Spec.of(array))
        return cls(request.call, request.axis, request.reading, request.form, tensors)

    def request(self, payload: bytes) -> LossRequest:
        """The request in a message of this kind.

        Raises:
            InvalidField: an element is not allowed.
        """
        arrays: dict[str, Any] = {name: each.read(payload) for name, each in self.tensors.items()}
        logits, labels = arrays.pop("logits"), arrays.pop("labels", None)
        if labels is not None:
            rules.check_labels(self.call, self.reading, labels, self.form.classes)
        if arrays:
            rules.check_weights(self.call, Spec.of(logits), self.axis, arrays)
        return LossRequest(
            self.call, logits, self.axis, labels, self.reading, form=self.form, **arrays
        )


class RequestReader:
    """Reads requests, and remembers the kinds it has met."""

    def __init__(self) -> None:
        self._kinds: Skeletons[_Kind] = Skeletons(pb.ComputeRequest)
        self._none = Regions(0)

    def read(self, payload: bytes, regions: Regions | None = None) -> LossRequest:
        """The request in the bytes of a `ComputeRequest`.

        Args:
            payload: the bytes.
            regions: memory that clients share; None for none.

        Raises:
            InvalidRequest: not such a message, or one that breaks a rule.
            Unsupported: a loss or option that this version does not have.
            UnknownRegion: a tensor or result in a region that is not open.
        """
        known = self._kinds.find(payload)
        if known is not None:
            try:
                return known.request(payload)
            except InvalidField as error:
                raise InvalidRequest(str(error)) from error
        request = validation.parse_compute(payload, self._none if regions is None else regions)
        spans = self._kinds.spans(payload)
        kind = None if spans is None else _Kind.of(request, spans)
        if spans is not None and kind is not None:
            self._kinds.add(payload, spans, kind)
        return request
