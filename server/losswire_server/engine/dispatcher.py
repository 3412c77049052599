"""The thread that owns a device: nobody else calls it.

In: jobs to be done on that thread, and flights, chunks whose inputs have been staged. Out: flights
that have landed, or failed. A flight's three steps run on a stream of their own each and wait for
one another by events, so that one chunk comes in while another is computed and a third goes out.

The thread sleeps while nothing is in flight. It looks at events rather than waiting for them: what
arrives meanwhile is to be started.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from losswire_server.engine.device import DeviceLost

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from losswire_proto.dtypes import Array
    from losswire_server.engine.device import Device
    from losswire_server.engine.launches import Launch
    from losswire_server.engine.slots import Slot
    from losswire_server.engine.staging import Copy

_T = TypeVar("_T")

_LOOK_SECONDS: Final = 50e-6
"""Between two looks at events. Copying a megabyte takes as long."""


@dataclass(slots=True, eq=False)
class Flight:
    """A chunk on the device.

    Attributes:
        slot: its memory.
        launch: what computes it.
        arguments: a record of `launches.ARGUMENTS`.
        uploads: the copies before the launch.
        downloads: those after it.
        landing: resolved when the device is done with it; with what went wrong, if anything.
    """

    slot: Slot
    launch: Launch
    arguments: Array
    uploads: Sequence[Copy]
    downloads: Sequence[Copy]
    landing: Future[None] = field(default_factory=Future)


class Dispatcher:
    """Runs jobs and flights on one thread of its own.

    Args:
        device: which from now on only that thread calls.
        on_lost: called on that thread, once, when the device is lost.
    """

    def __init__(self, device: Device, on_lost: Callable[[DeviceLost], None]) -> None:
        self._device = device
        self._on_lost = on_lost
        # Not a SimpleQueue: up to Python 3.12 its `get` waits for ever where its thread is kept
        # from running for as long as its timeout, between looking at the clock twice.
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._in_flight: deque[Flight] = deque()
        self._lost: DeviceLost | None = None
        self._streams: list[Any] = []
        self._thread = threading.Thread(target=self._serve, name="losswire-gpu", daemon=True)
        self._thread.start()
        try:
            self.run(self._begin)
        except BaseException:
            self.close()
            raise

    @property
    def is_lost(self) -> bool:
        """Whether the device is."""
        return self._lost is not None

    def run(self, job: Callable[[], _T]) -> _T:
        """Does something on the device's thread and waits for it.

        Raises:
            DeviceLost: the device is, or is now.
        """
        done: Future[_T] = Future()
        self._jobs.put(partial(self._do, job, done))
        return done.result()

    def start(self, flight: Flight) -> None:
        """Starts a flight and returns; `flight.landing` says when it is over."""
        self._jobs.put(partial(self._start, flight))

    def close(self) -> None:
        """Ends the thread, once everything has landed."""
        self._jobs.put(None)
        self._thread.join()

    def _serve(self) -> None:
        is_open = True
        while is_open or self._in_flight:
            try:
                job = self._jobs.get(timeout=_LOOK_SECONDS if self._in_flight else None)
            except queue.Empty:
                pass
            else:
                if job is None:
                    is_open = False
                else:
                    job()
                    del job  # what it refers to may be the caller's last reference
            self._look()

    def _begin(self) -> None:
        self._device.attach()
        self._streams = [self._device.stream() for _ in range(3)]

    def _do(self, job: Callable[[], Any], done: Future[Any]) -> None:
        try:
            self._check()
            done.set_result(job())
        except Exception as error:  # noqa: BLE001 -- handed to who asked for it
            done.set_exception(error)
            self._note(error)

    def _start(self, flight: Flight) -> None:
        try:
            self._check()
            self._enqueue(flight)
        except Exception as error:  # noqa: BLE001 -- the same
            if not isinstance(error, DeviceLost):
                self._settle()
            flight.landing.set_exception(error)
            self._note(error)
        else:
            self._in_flight.append(flight)

    def _check(self) -> None:
        if self._lost is not None:
            raise DeviceLost(str(self._lost))

    def _enqueue(self, flight: Flight) -> None:
        """Hands the three steps to their streams."""
        device, slot = self._device, flight.slot
        up, compute, down = self._streams
        for copy in flight.uploads:
            device.upload(slot.memory + copy.offset, copy.host, copy.nbytes, up)
        device.record(slot.uploaded, up)
        device.wait(compute, slot.uploaded)
        device.launch(flight.launch, flight.arguments, compute)
        device.record(slot.computed, compute)
        device.wait(down, slot.computed)
        for copy in flight.downloads:
            device.download(copy.host, slot.memory + copy.offset, copy.nbytes, down)
        device.record(slot.done, down)

    def _settle(self) -> None:
        """Waits for all streams: a flight that failed half-way may still be using its memory."""
        try:
            event = self._device.event()
            for stream in self._streams:
                self._device.record(event, stream)
                self._device.synchronise(event)
        except Exception as error:  # noqa: BLE001 -- what cannot be waited for is of no use again
            self._note(error if isinstance(error, DeviceLost) else DeviceLost(str(error)))

    def _look(self) -> None:
        """Lands what has arrived, in the order of the stream that copies out."""
        try:
            while self._in_flight and self._device.is_reached(self._in_flight[0].slot.done):
                self._in_flight.popleft().landing.set_result(None)
        except Exception as error:  # noqa: BLE001 -- no event can be trusted any more
            self._note(error if isinstance(error, DeviceLost) else DeviceLost(str(error)))

    def _note(self, error: Exception) -> None:
        """Whether it is the end: if so, everything in flight fails, and all that comes later."""
        if not isinstance(error, DeviceLost) or self._lost is not None:
            return
        self._lost = error
        while self._in_flight:
            self._in_flight.popleft().landing.set_exception(error)
        self._on_lost(error)
