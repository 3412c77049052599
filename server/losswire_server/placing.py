"""Results in shared memory: where each goes, and what that does to the inputs.

In: a validated request and the destinations that came with it. Out: the request with arrays for its
results to be written to. Slices of results that overlap are refused, and an input that one of them
touches is copied where it must be, so that no order of writing can change a result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from losswire_proto.rules import InvalidField, Spec

if TYPE_CHECKING:
    from losswire_proto.v1 import loss_service_pb2 as pb
    from losswire_proto.v1 import tensor_pb2
    from losswire_server.mappings import FileId
    from losswire_server.regions import Regions
    from losswire_server.requests import LossRequest

_ALIGNMENT: Final = 8


@dataclass(frozen=True, slots=True)
class _Slice:
    """Bytes of shared memory, and what lies in them."""

    file: FileId
    start: int
    stop: int
    spec: Spec

    @classmethod
    def of(cls, message: tensor_pb2.RegionSlice, spec: Spec, regions: Regions) -> _Slice:
        # Not by the region's id: the same memory may have been announced twice.
        file = regions.file_of(message.region_id)
        return cls(file, message.offset, message.offset + message.length, spec)

    def overlaps(self, other: _Slice) -> bool:
        return self.file == other.file and max(self.start, other.start) < min(self.stop, other.stop)


def place(message: pb.ComputeRequest, request: LossRequest, regions: Regions) -> LossRequest:
    """The request with the arrays that its results are to be written to.

    Raises:
        InvalidField: a result that was not asked for, a slice of another size, slices that overlap.
        UnknownRegion, InvalidRequest: a slice of no region, or not within it.
    """
    specs = request.result_specs
    taken: dict[str, _Slice] = {}
    arrays = {}
    for descriptor, region in message.destinations.ListFields():
        name, where = descriptor.name, f"destinations.{descriptor.name}"
        if name not in specs:
            raise InvalidField(where, "none for a result that is not asked for", "a slice")
        spec = specs[name]
        if region.length != spec.nbytes or region.offset % _ALIGNMENT:
            allowed = f"{spec.nbytes} bytes for {spec}, at a multiple of {_ALIGNMENT}"
            raise InvalidField(where, allowed, f"{region.length} bytes at {region.offset}")
        memory = regions.find(where, region.region_id, region.offset, region.length)
        mine = _Slice.of(region, spec, regions)
        for other, slice_ in taken.items():
            if mine.overlaps(slice_):
                raise InvalidField(where, f"no overlap with destinations.{other}", "one")
        taken[name] = mine
        arrays[name] = np.frombuffer(memory, spec.dtype).reshape(spec.shape)
    request = replace(request, destinations=arrays)
    return _without_overlap(message, request, list(taken.values()), regions)


def _without_overlap(
    message: pb.ComputeRequest, request: LossRequest, taken: list[_Slice], regions: Regions
) -> LossRequest:
    """The request with inputs that the engine can read while it writes results.

    Rows of an input that a result of the same shape and dtype lies over are read before they are
    written; any other input that a result touches is copied.
    """
    is_in_place, mapped_bytes = False, 0
    for name, array in (("logits", request.logits), ("labels", request.labels)):
        tensor = getattr(message, name)
        # An array that owns its memory has been copied before: ids, and what is not aligned.
        if array is None or array.flags.owndata or not tensor.HasField("region"):
            continue
        mine = _Slice.of(tensor.region, Spec.of(array), regions)
        touched = [each for each in taken if mine.overlaps(each)]
        if any(each != mine for each in touched):
            copied: dict[str, Any] = {name: array.copy()}
            request = replace(request, **copied)
        else:
            is_in_place = is_in_place or bool(touched)
            mapped_bytes += array.nbytes
    return replace(request, is_in_place=is_in_place, mapped_bytes=mapped_bytes)
