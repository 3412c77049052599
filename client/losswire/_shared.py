"""The path of large tensors on the same host: the server reads and writes the client's memory.

Only handles travel, and all to one server: where there are several, each knows its own regions.
Arrays that already lie in a region (`client.empty`) are not copied at all; others are copied into
one, where their gradient then takes their place, and the caller gets the array in the region
itself.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import grpc
import numpy as np

from losswire import _placed, _regions
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
from losswire._placed import CannotShare, Placed
from losswire._regions import Regions
from losswire._retries import CannotRepeat
from losswire_proto.rules import Spec
from losswire_proto.v1 import loss_service_pb2 as pb

if TYPE_CHECKING:
    from losswire._requests import Asked
    from losswire._results import Outputs
    from losswire_proto.dtypes import Array

_TRIES: Final = 3
"""Of a call whose regions the server does not know: it, too, may need the room for other calls."""


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
        is_small = spec.nbytes < _placed.INLINE_BYTES
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
        placed = Placed(asked, self.regions, self._limit)
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

    def _send(self, placed: Placed) -> Plan[bytes]:
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

    def _announce(self, placed: Placed) -> Plan[None]:
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
