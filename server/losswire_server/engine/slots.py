"""Slots: the memory that a chunk in flight has to itself, on the device and pinned on the host.

There are a few, made once and grown when a chunk wants more than any before. What they hold
together is within the device's budget.
"""

from __future__ import annotations

import queue
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from losswire_server.engine.device import DeviceError, DeviceMemoryError

if TYPE_CHECKING:
    from losswire_server.engine.device import Device, Pinned

_STEP: Final = 1 << 20
"""Bytes; sizes of slots are multiples, so that a little more needs no new memory."""


class Slot:
    """Memory and events of one chunk at a time.

    Attributes:
        uploaded, computed, done: events, each after the step that it names.
    """

    def __init__(self, device: Device, limit: int) -> None:
        self._device = device
        self._limit = limit
        self._memory: int | None = None
        self._pinned: Pinned | None = None
        self.nbytes = 0
        self.uploaded, self.computed, self.done = device.event(), device.event(), device.event()

    @property
    def memory(self) -> int:
        """Address on the device; only of a slot that has been reserved."""
        assert self._memory is not None  # noqa: S101 -- for the type checker
        return self._memory

    @property
    def pinned(self) -> Pinned:
        """As much memory of the host; likewise."""
        assert self._pinned is not None  # noqa: S101 -- for the type checker
        return self._pinned

    def reserve(self, nbytes: int) -> None:
        """Grows to at least `nbytes`; what was there is lost.

        Raises:
            DeviceMemoryError: there is not so much; the slot is then empty.
        """
        if nbytes > self._limit:
            raise DeviceMemoryError(
                f"{nbytes} bytes are needed at once, {self._limit} are allowed (gpu_memory_bytes)"
            )
        self.release()
        size = min(-(-nbytes // _STEP) * _STEP, self._limit)
        self._memory = self._device.allocate(size)
        try:
            self._pinned = self._device.pin(size)
        except BaseException:
            self.release()
            raise
        self.nbytes = size

    def release(self) -> None:
        """Gives all memory back."""
        memory, pinned = self._memory, self._pinned
        self._memory, self._pinned, self.nbytes = None, None, 0
        # Of a device that is lost nothing can be freed; it goes with the process.
        if memory is not None:
            with suppress(DeviceError):
                self._device.free(memory)
        if pinned is not None:
            with suppress(DeviceError):
                self._device.unpin(pinned)


class Slots:
    """Slots that threads take and give back; nobody waits for one while holding another."""

    def __init__(self, slots: list[Slot]) -> None:
        self._all = slots
        self._free: queue.LifoQueue[Slot] = queue.LifoQueue()
        for slot in slots:
            self._free.put(slot)

    @property
    def free(self) -> int:
        """How many nobody has."""
        return self._free.qsize()

    def take(self, *, is_patient: bool) -> Slot | None:
        """A free slot; None where there is none and the caller is not to wait."""
        try:
            return self._free.get(block=is_patient)
        except queue.Empty:
            return None

    def take_idle(self) -> list[Slot]:
        """All that are free."""
        taken: list[Slot] = []
        while (slot := self.take(is_patient=False)) is not None:
            taken.append(slot)
        return taken

    def give_back(self, slot: Slot) -> None:
        """Lets others have it."""
        self._free.put(slot)

    def release(self) -> None:
        """Gives the memory of all of them back; nothing may be in flight."""
        for slot in self._all:
            slot.release()
