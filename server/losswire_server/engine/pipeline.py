"""The pipeline of one GPU: batches go in, and come out computed, several of them overlapping.

In: batches as works, from several threads. Out: their arrays, filled. The thread that brings a
batch cuts it into chunks, gathers each into the pinned memory of a slot, and scatters what comes
back; the device's own thread (`dispatcher`) starts the copies and the launch between. A thread has
as many chunks in flight as it finds slots, and lands its own before it waits for others'.

A chunk that finds no memory is cut smaller, down to a row. Whatever fails, the caller gets the
error only when nothing of its batch is in flight any more, and every slot is given back.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from losswire_server.engine import chunks, launches, staging
from losswire_server.engine.device import DeviceError, DeviceMemoryError, LaunchError
from losswire_server.engine.dispatcher import Dispatcher, Flight
from losswire_server.engine.fields import layout_of
from losswire_server.engine.known_kernels import KnownKernels
from losswire_server.engine.slots import Slot, Slots

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from losswire_server.engine.chunks import Chunk
    from losswire_server.engine.device import Device, DeviceLost
    from losswire_server.engine.fields import Layout
    from losswire_server.engine.launches import Launch
    from losswire_server.engine.staging import Homecoming, Registered
    from losswire_server.engine.tilings import Traits
    from losswire_server.engine.works import Work
    from losswire_server.requests import LossRequest

SLOTS: Final = 4
"""One chunk comes in, one is computed, one goes out, and one is being gathered or scattered."""

CHUNK_BYTES: Final = 16 << 20
"""Of a chunk on the device: a third of a millisecond of PCIe 5, several times what it takes to
start one from Python."""


class Kernels(Protocol):
    """What decides how a chunk is computed; the module `launches` is one."""

    def plan(self, request: LossRequest, rows: int, traits: Traits, *, is_strided: bool) -> Launch:
        """The launch for rows of requests like this one."""

    def options(self, request: LossRequest) -> dict[str, float]:
        """Fields of `launches.ARGUMENTS` that follow from the request."""


@dataclass(frozen=True, slots=True)
class _Airborne:
    """A chunk in flight, and what is to be done when it lands."""

    chunk: Chunk
    flight: Flight
    layout: Layout
    homecoming: Homecoming


class Pipeline:
    """Computes batches on one device.

    Args:
        device: which from now on is the pipeline's.
        budget_bytes: of the device's memory, for all slots together.
        registered: memory of the host that needs no staging.
        on_lost: called once, on a thread of the pipeline's, when the device is lost.
        kernels: which kernel computes what.
        known: kernels to be compiled now; those that come up are added.
        chunk_bytes: of the device, for each chunk.
    """

    def __init__(
        self,
        device: Device,
        budget_bytes: int,
        registered: Registered,
        on_lost: Callable[[DeviceLost], None],
        *,
        kernels: Kernels | Any = launches,
        known: KnownKernels | None = None,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self._device = device
        self._known = KnownKernels(None) if known is None else known
        self._registered = registered
        self._kernels = kernels
        limit = budget_bytes // SLOTS
        self._chunk_bytes = min(chunk_bytes, limit)
        self._dispatcher = Dispatcher(device, on_lost)
        try:
            made = self._dispatcher.run(lambda: [Slot(device, limit) for _ in range(SLOTS)])
            self._dispatcher.run(self._compile_known)
        except BaseException:
            self._dispatcher.close()
            raise
        self._slots = Slots(made)

    def _compile_known(self) -> None:
        for kernel in self._known:
            with suppress(LaunchError):  # whoever needs it will be told
                self._device.compile(kernel)

    @property
    def device(self) -> Device:
        """What it computes on."""
        return self._device

    @property
    def is_lost(self) -> bool:
        """Whether nothing will be computed any more."""
        return self._dispatcher.is_lost

    @property
    def free_slots(self) -> int:
        """How many slots nobody has; all of them when nothing is computed."""
        return self._slots.free

    def compute(self, works: Sequence[Work]) -> None:
        """Computes a batch: fills the arrays of its works.

        Raises:
            DeviceError: nothing of the batch can be relied on.
        """
        pending = deque(chunks.cut(works, self._chunk_bytes))
        airborne: deque[_Airborne] = deque()
        try:
            while pending or airborne:
                slot = self._slots.take(is_patient=not airborne) if pending else None
                if slot is None:
                    self._land(airborne.popleft())
                else:
                    self._depart(slot, airborne, pending)
        finally:
            for each in airborne:  # of a batch that failed
                each.flight.landing.exception()
                self._slots.give_back(each.flight.slot)

    def close(self) -> None:
        """Gives all memory back; nothing may be computing."""
        try:
            self._dispatcher.run(self._release)
        except DeviceError:
            pass  # lost: its memory went with it
        finally:
            self._dispatcher.close()

    def _release(self) -> None:
        self._slots.release()
        self._device.close()

    def _depart(self, slot: Slot, airborne: deque[_Airborne], pending: deque[Chunk]) -> None:
        """Starts the next chunk in a slot.

        One that finds no memory is tried again in a slot that has some, and then cut smaller.
        """
        chunk = pending.popleft()
        try:
            airborne.append(self._started(slot, chunk))
        except DeviceMemoryError:
            self._slots.give_back(slot)
            if airborne:
                pending.appendleft(chunk)
                self._land(airborne.popleft())
                return
            smaller = chunk.smaller()
            if not smaller:
                raise
            pending.extendleft(reversed(smaller))
        except BaseException:
            self._slots.give_back(slot)
            raise

    def _started(self, slot: Slot, chunk: Chunk) -> _Airborne:
        layout = layout_of(chunk)
        if layout.nbytes > slot.nbytes:
            self._reserve(slot, layout.nbytes)
        request = chunk.request
        launch = self._kernels.plan(
            request, chunk.rows, self._device.traits, is_strided=chunk.is_strided
        )
        self._known.add(launch.kernel)
        homecoming = staging.download(layout, slot.pinned, self._registered)
        flight = Flight(
            slot,
            launch,
            layout.arguments(chunk, slot.memory, self._kernels.options(request)),
            staging.upload(layout, slot.pinned, self._registered),
            homecoming.copies,
        )
        self._dispatcher.start(flight)
        return _Airborne(chunk, flight, layout, homecoming)

    def _reserve(self, slot: Slot, nbytes: int) -> None:
        """Grows a slot, if need be to no more than `nbytes` and at the cost of idle ones."""
        with suppress(DeviceMemoryError):
            size = max(nbytes, self._chunk_bytes)
            return self._dispatcher.run(lambda: slot.reserve(size))
        idle = self._slots.take_idle()
        try:
            self._dispatcher.run(partial(_release_all, idle))
        finally:
            for each in idle:
                self._slots.give_back(each)
        return self._dispatcher.run(lambda: slot.reserve(nbytes))

    def _land(self, each: _Airborne) -> None:
        """Waits for a chunk, the oldest of its batch, and takes its results."""
        try:
            each.flight.landing.result()
            each.homecoming.scatter()
        finally:
            self._slots.give_back(each.flight.slot)
        _check_fault(each)
        _add_label_gradients(each)


def _release_all(slots: Sequence[Slot]) -> None:
    for slot in slots:
        slot.release()


def _check_fault(each: _Airborne) -> None:
    """Refuses results of rows whose ids are not what was validated.

    Raises:
        RuntimeError: they were changed since.
    """
    row = int(each.layout.fault[0])
    if row == launches.NO_FAULT:
        return
    for piece in each.chunk.pieces:
        if row < piece.rows:
            raise RuntimeError(f"the class id of row {piece.start + row} changed under the engine")
        row -= piece.rows


def _add_label_gradients(each: _Airborne) -> None:
    """Adds the gradients of rows to the sums of labels that broadcast."""
    rows = each.layout.label_rows
    if rows is None:
        return
    position = 0
    for piece in each.chunk.pieces:
        work = piece.work
        if work.label_gradient is not None and work.label_table is not None:
            index = work.label_table.index[piece.span]
            part = rows[position : position + piece.rows]
            work.label_gradient.add(work.first_row + piece.start, index, part)
        position += piece.rows
