"""A request as it lies in shared memory: which tensors are in regions, and where results go.

In: a request. Out: the message that names its regions, and the results found in them. `CannotShare`
where they have no room.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from losswire._replies import parse
from losswire._stream import is_blockwise
from losswire_proto import dtypes, tensors, wire
from losswire_proto.rules import Spec
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_proto.v1 import tensor_pb2

if TYPE_CHECKING:
    from losswire._regions import Region, Regions
    from losswire._requests import Asked
    from losswire._results import Outputs
    from losswire_proto.dtypes import Array

INLINE_BYTES: Final = 128 << 10
"""Tensors besides the logits that are smaller travel in the message."""


class CannotShare(Exception):  # noqa: N818 -- another path will do
    """Client and server share no memory; the message says why.

    Attributes:
        is_passing: whether another try may succeed.
    """

    def __init__(self, message: str, *, is_passing: bool = False) -> None:
        super().__init__(message)
        self.is_passing = is_passing


class Placed:
    """A request with its large tensors, and those of its results, in regions.

    Args:
        asked: the request.
        regions: of the client.
        limit: bytes of regions that the server allows.

    Attributes:
        regions: all that it uses.
        ids: what the server calls them. Another thread may announce a region once more meanwhile;
            within one request it has one name, so that the server sees what overlaps.

    Raises:
        CannotShare: there is no room.
    """

    def __init__(self, asked: Asked, regions: Regions, limit: int) -> None:
        self._asked = asked
        self._regions = regions
        self._room = limit
        self.ids: dict[Region, str] = {}
        self._inline: dict[str, Array] = {}
        self._inputs: dict[str, Array] = {}
        self._results: dict[str, Array] = {}
        self.regions: list[Region] = []
        call, logits = asked.call, asked.logits
        given = {**asked.weights, "logits": logits}
        if asked.labels is not None:
            given["labels"] = asked.labels
        for name, array in given.items():
            if name == "logits" or array.nbytes >= INLINE_BYTES:
                self._inputs[name] = self._in_region(array)
            else:
                self._inline[name] = array
        if call.grad_logits or asked.reading == "none":
            name = "output" if asked.reading == "none" else "grad_logits"
            self._results[name] = self._over("logits", logits, asked.overwritten is not None)
        if call.grad_labels and asked.labels is not None and "labels" in self._inputs:
            is_same_shape = is_blockwise(asked)
            self._results["grad_labels"] = (
                self._over("labels", asked.labels, False)
                if is_same_shape
                else self._fresh(asked.labels.shape, asked.labels.dtype)
            )
        dtype = dtypes.compute_dtype(logits.dtype)
        if asked.reading != "none" and asked.rows * dtype.itemsize >= INLINE_BYTES:
            self._results["per_example"] = self._fresh(asked.example_shape, dtype)

    @property
    def is_in_place(self) -> bool:
        """Whether the server writes over the caller's own logits."""
        overwritten = self._asked.overwritten
        return overwritten is not None and self._results["grad_logits"] is overwritten

    def request_bytes(self) -> bytes:
        """The `ComputeRequest`, once all regions have been announced."""
        names = self._asked.names
        message = pb.ComputeRequest(options=wire.encode_call(self._asked.call))
        for name, array in self._inline.items():
            getattr(message, name).CopyFrom(tensors.encode(names.get(name, name), array))
        for name, array in self._inputs.items():
            tensor = tensors.describe(names.get(name, name), Spec.of(array))
            tensor.region.CopyFrom(self._slice(array))
            getattr(message, name).CopyFrom(tensor)
        for name, array in self._results.items():
            getattr(message.destinations, name).CopyFrom(self._slice(array))
        return message.SerializeToString()

    def outputs(self, reply: bytes) -> Outputs:
        """The results, those in regions where they are."""
        outputs = parse(reply, self._asked)
        is_crowded = self._regions.is_crowded
        for name, array in self._results.items():
            outputs[name] = array.copy() if is_crowded else array
        overwritten = self._asked.overwritten
        if overwritten is not None:
            if self._results["grad_logits"] is not overwritten:
                np.copyto(overwritten, self._results["grad_logits"])
            outputs["grad_logits"] = overwritten
        return outputs

    def spoil(self) -> None:
        """Keeps memory that the server may still write to from being used for anything else."""
        for array in self._results.values():
            found = self._regions.find(array)
            if found is not None:
                found[0].is_reusable = False

    def forget(self) -> None:
        """Has the regions announced again: the server does not know them by their ids."""
        for region, region_id in self.ids.items():
            if region.id == region_id:
                region.id = None

    def _in_region(self, array: Array) -> Array:
        """The array itself where it lies in a region, else a copy that does."""
        found = self._regions.find(array)
        if found is not None:
            self._use(found[0])
            return array
        copy = self._fresh(array.shape, array.dtype)
        np.copyto(copy, array)
        return copy

    def _over(self, name: str, given: Array, is_overwritten: bool) -> Array:
        """Where a result of an input's shape and dtype goes: over our copy of it, or elsewhere."""
        mine = self._inputs[name]
        if mine is given and not is_overwritten:
            return self._fresh(given.shape, given.dtype)
        return mine

    def _fresh(self, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> Array:
        if math.prod(shape) * dtype.itemsize > self._room:
            raise self._no_room()
        try:
            array = self._regions.empty(shape, dtype)
        except OSError as error:
            raise CannotShare(f"no memory to share: {error}", is_passing=True) from error
        found = self._regions.find(array)
        if found is not None:
            self._use(found[0])
        return array

    def _use(self, region: Region) -> None:
        if region in self.regions:
            return
        self._room -= region.size
        if self._room < 0:
            raise self._no_room()
        self.regions.append(region)

    def _no_room(self) -> CannotShare:
        return CannotShare("the tensors are larger than what the server shares (max_region_bytes)")

    def _slice(self, array: Array) -> tensor_pb2.RegionSlice:
        found = self._regions.find(array)
        if found is None:
            raise RuntimeError("an array that lies in no region")
        region, offset = found
        return tensor_pb2.RegionSlice(
            region_id=self.ids[region], offset=offset, length=array.nbytes
        )
