"""The path of large tensors on the same host: the server reads and writes the client's memory.

Only handles travel, and all to one server: where there are several, each knows its own regions.
Arrays that already lie in a region (`client.empty`) are not copied at all; others are copied into
one, where their gradient then takes their place, and the caller gets the array in the region
itself.
"""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc
import numpy as np

from losswire import _regions
from losswire._calls import Plan, Unary
from losswire._errors import (
    InvalidInput,
    LosswireError,
    PermissionDenied,
    ServerBusy,
    ServerError,
    ServerUnavailable,
)
from losswire._handover import Handover
from losswire._regions import Region, Regions
from losswire._replies import parse
from losswire._retries import CannotRepeat
from losswire._stream import is_blockwise
from losswire_proto import dtypes, tensors, wire
from losswire_proto.rules import Spec
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_proto.v1 import tensor_pb2

if TYPE_CHECKING:
    from losswire._requests import Asked
    from losswire._results import Outputs
    from losswire_proto.dtypes import Array

INLINE_BYTES: Final = 128 << 10
"""Tensors besides the logits that are smaller travel in the message."""

_TRIES: Final = 3
"""Of a call whose regions the server does not know: it, too, may need the room for other calls."""


class CannotShare(Exception):  # noqa: N818 -- another path will do
    """Client and server share no memory; the message says why.

    Attributes:
        is_passing: whether another try may succeed.
    """

    def __init__(self, message: str, *, is_passing: bool = False) -> None:
        super().__init__(message)
        self.is_passing = is_passing


class SharedMemory:
    """The regions of a client, and whether its server can look into them."""

    def __init__(self) -> None:
        self.regions = Regions()
        self._obstacle: str | None = None if _regions.IS_POSSIBLE else "this platform has no memfd"
        self._is_asked = False
        self._limit = 0
        self._handover: Handover | None = None

    def empty(self, shape: Any, dtype: Any) -> Array:
        """An array in a region, or where it cannot be, one like any other.

        Raises:
            InvalidInput: no shape or no dtype.
        """
        try:
            # NumPy knows what they are; a shape of no memory costs nothing.
            spec = Spec.of(np.broadcast_to(np.zeros((), dtype), shape))
        except (TypeError, ValueError) as error:
            allowed = "shape, dtype: expected lengths >= 0 and a NumPy dtype"
            raise InvalidInput(f"{allowed}, received {shape!r}, {dtype!r}") from error
        is_small = spec.nbytes < INLINE_BYTES
        if self._obstacle is None and not is_small and not spec.dtype.hasobject:
            with suppress(OSError):
                return self.regions.empty(spec.shape, spec.dtype)
        return np.empty(spec.shape, spec.dtype)

    def close(self) -> None:
        """Hands nothing over any more."""
        if self._handover is not None:
            self._handover.close()

    def compute(self, asked: Asked) -> Plan[Outputs]:
        """Asks for one loss over tensors in shared memory.

        Raises:
            CannotShare: they cannot be.
            CannotRepeat: the call failed when its logits may have been overwritten.
        """
        yield from self._ask_server()
        placed = _Placed(asked, self.regions, self._limit)
        try:
            reply = yield from self._send(placed)
        except (ServerBusy, ServerUnavailable) as error:
            if not error.was_refused:
                placed.spoil()
                if placed.is_in_place:
                    raise CannotRepeat(error) from error.__cause__
            raise
        except BaseException:
            # The server may still be at it, and write what nobody waits for.
            placed.spoil()
            raise
        yield from self._tidy()
        return placed.outputs(reply)

    def _ask_server(self) -> Plan[None]:
        """Finds out once whether the server is on this host and shares memory."""
        if not self._is_asked and self._obstacle is None:
            payload = pb.GetServerInfoRequest().SerializeToString()
            reply = yield Unary("GetServerInfo", payload, is_pinned=True)
            info = pb.GetServerInfoResponse.FromString(reply)
            self._limit = info.limits.max_region_bytes
            if not self._limit:
                self._obstacle = "the server shares no memory"
            elif (info.host.boot_id, info.host.pid_namespace) != _host():
                self._handover = _handover_of(info.host)
                if self._handover is None:
                    self._obstacle = "the server is on another host or in another container"
            self._is_asked = True
        if self._obstacle is not None:
            raise CannotShare(self._obstacle)

    def _send(self, placed: _Placed) -> Plan[bytes]:
        for _ in range(_TRIES):
            yield from self._announce(placed)
            try:
                reply: bytes = yield Unary("Compute", placed.request_bytes(), is_pinned=True)
            except ServerError as error:
                if error.code is not grpc.StatusCode.NOT_FOUND:
                    raise
                # Another server by now, or one that needed the room: nothing was computed.
                placed.forget()
            else:
                return reply
        raise CannotShare("the server has no room for the regions of all calls", is_passing=True)

    def _announce(self, placed: _Placed) -> Plan[None]:
        """Tells the server of the regions that it does not know."""
        for region in placed.regions:
            region_id = region.id
            if region_id is None:
                try:
                    message = region.announcement(self._handover)
                except OSError as error:
                    self._is_asked = False  # it may be another server by now, elsewhere
                    raise CannotShare(
                        f"the server takes no memory: {error}", is_passing=True
                    ) from error
                try:
                    reply = yield Unary("OpenRegion", message, is_pinned=True)
                except ServerBusy as error:
                    raise CannotShare(str(error), is_passing=True) from error
                except (PermissionDenied, InvalidInput, ServerError) as error:
                    self._obstacle = str(error)
                    raise CannotShare(str(error)) from error
                opened = pb.OpenRegionResponse.FromString(reply).region_id
                region_id = self.regions.announced(region, opened)
            placed.ids[region] = region_id

    def _tidy(self) -> Plan[None]:
        """Tells the server of regions that are not kept."""
        for region_id in self.regions.closing():
            try:
                yield Unary("CloseRegion", closing(region_id), is_pinned=True)
            except LosswireError:
                continue  # it lets them go by itself, in time


def closing(region_id: str) -> bytes:
    """The message that ends the use of a region."""
    return pb.CloseRegionRequest(region_id=region_id).SerializeToString()


def _host() -> tuple[str, int] | None:
    """What tells this host and pid namespace from others; None where nothing does."""
    try:
        boot_id = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return boot_id, Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return None


def _handover_of(host: pb.HostIdentity) -> Handover | None:
    """Where a server in another container of this host takes memory; None where it does not."""
    mine = _host()
    if mine is None or host.boot_id != mine[0] or not host.handover_socket:
        return None
    # Not to be seen from here unless both mount the folder.
    return Handover(host.handover_socket) if Path(host.handover_socket).is_socket() else None


class _Placed:
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
