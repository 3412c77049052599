"""A device of plain memory, whose work runs in any order that its streams and events allow.

What is queued runs when something looks at the device, in an order drawn from a seed: where a wait
is missing, some seed shows it as a wrong result. Addresses are checked, memory begins with garbage,
and failures come when a test says so: at the n-th call of an operation.
"""

import ctypes
import random
import threading
from collections import Counter, deque
from dataclasses import dataclass, field

import numpy as np

from losswire_server.engine.device import DeviceLost, DeviceMemoryError, Pinned
from losswire_server.engine.tilings import Traits

GARBAGE = 0xA5
FIRST_ADDRESS = 1 << 44
"""Of the device: above what the host's memory can have, so that no one takes one for the other."""


@dataclass(eq=False)
class FakeEvent:
    """A mark: how often it was recorded, and the last of these that was reached."""

    recorded: int = 0
    reached: int = 0


@dataclass(eq=False)
class _Operation:
    """Something that waits in a stream; `ranges` are the addresses that it will touch."""

    act: object
    is_ready: object = lambda: True
    ranges: list = field(default_factory=list)


class FakeDevice:
    """See `device.Device`.

    Args:
        run: what a launch does: `run(launch, arguments, memory)` with this device as `memory`.
        seed: of the order in which things happen.
        memory_bytes: how much there is.
        failures: errors by operation and number of the call, from 1: `{("launch", 2): error}`.
        after_launches: nothing runs before so many launches are queued.
    """

    name = "Fake GPU"
    traits = Traits((9, 0), multiprocessors=132)

    def __init__(self, run, seed=0, memory_bytes=1 << 30, failures=None, after_launches=0):
        self.memory_bytes = memory_bytes
        self.failures = dict(failures or {})
        self.calls = Counter()
        self.violations = []
        self.launches, self.compiled = [], []
        self.direct_bytes = self.most_bytes = 0
        self._after_launches = after_launches
        self._run = run
        self._random = random.Random(seed)
        self._streams = []
        self._device = {}
        self._pinned = {}
        self._registered = {}
        self._next = FIRST_ADDRESS
        self._owner = None
        self._lost = None
        self._lock = threading.Lock()

    # What a device does

    def attach(self):
        self._owner = threading.current_thread()

    def allocate(self, nbytes):
        self._called("allocate")
        if nbytes + sum(map(len, self._device.values())) > self.memory_bytes:
            raise DeviceMemoryError(f"the fake has {self.memory_bytes} bytes")
        address = self._next
        self._next += -(-nbytes // 256) * 256 + 4096
        self._device[address] = _aligned(nbytes)
        self.most_bytes = max(self.most_bytes, sum(map(len, self._device.values())))
        return address

    def free(self, address):
        self._called("free")
        self._check_idle(address, len(self._device[address]))
        del self._device[address]

    def pin(self, nbytes):
        self._called("pin")
        array = np.full(nbytes, GARBAGE, np.uint8)
        pinned = Pinned(array.ctypes.data, array)
        self._pinned[pinned.address] = nbytes
        return pinned

    def unpin(self, pinned):
        self._called("unpin")
        self._check_idle(pinned.address, self._pinned.pop(pinned.address))

    def register(self, address, nbytes):
        with self._lock:
            self._fail("register")
            self._registered[address] = nbytes

    def unregister(self, address):
        with self._lock:
            self._fail("unregister")
            self._check_idle(address, self._registered.pop(address))

    def stream(self):
        self._called("stream")
        self._streams.append(deque())
        return self._streams[-1]

    def event(self):
        self._called("event")
        return FakeEvent()

    def record(self, event, stream):
        self._called("record")
        event.recorded += 1
        number = event.recorded

        def reach():
            event.reached = max(event.reached, number)

        self._enqueue(stream, _Operation(reach))

    def wait(self, stream, event):
        self._called("wait")
        number = event.recorded
        self._enqueue(stream, _Operation(lambda: None, lambda: event.reached >= number))

    def synchronise(self, event):
        self._called("synchronise")
        while event.reached < event.recorded:
            if not self._step():
                raise self._violated("an event that nothing leads to is waited for")

    def is_reached(self, event):
        self._called("is_reached")
        for _ in range(self._random.randrange(4)):
            self._step()
        return event.reached >= event.recorded

    def upload(self, target, source, nbytes, stream):
        self._called("upload")
        self._enqueue(
            stream,
            _Operation(
                lambda: np.copyto(self.bytes(target, nbytes), self._host(source, nbytes)),
                ranges=[(target, nbytes), (source, nbytes)],
            ),
        )

    def download(self, target, source, nbytes, stream):
        self._called("download")
        self._enqueue(
            stream,
            _Operation(
                lambda: np.copyto(self._host(target, nbytes), self.bytes(source, nbytes)),
                ranges=[(target, nbytes), (source, nbytes)],
            ),
        )

    def compile(self, kernel):
        self._called("compile")
        self.compiled.append(kernel)

    def launch(self, launch, arguments, stream):
        self._called("launch")
        given = arguments.copy()
        self.launches.append((launch, given))
        self._enqueue(stream, _Operation(lambda: self._run(launch, given, self)))

    def close(self):
        self._called("close")

    # What a kernel sees, and a test

    def bytes(self, address, nbytes):
        """Memory of the device."""
        for start, memory in self._device.items():
            if start <= address and address + nbytes <= start + len(memory):
                return memory[address - start : address - start + nbytes]
        raise self._violated(f"{nbytes} bytes at {address:#x} are no memory of the device")

    def array(self, address, dtype, *shape):
        """The same as an array."""
        dtype = np.dtype(dtype)
        size = int(np.prod(shape)) * dtype.itemsize
        return self.bytes(int(address), size).view(dtype).reshape(shape)

    def host_address(self, address):
        """Where in this process a byte of the device lies, for kernels that run in it."""
        return self.bytes(int(address), 1).ctypes.data

    @property
    def held(self):
        """Allocations that were not given back: of the device, pinned and registered."""
        return len(self._device), len(self._pinned), len(self._registered)

    @property
    def is_lost(self):
        """Whether nothing works any more."""
        return self._lost is not None

    # Within

    def _called(self, operation):
        if threading.current_thread() is not self._owner:
            self._violated(f"{operation} from a thread that does not own the device")
        self._fail(operation)

    def _fail(self, operation):
        self.calls[operation] += 1
        if self._lost is not None:
            raise DeviceLost(self._lost)
        error = self.failures.get((operation, self.calls[operation]))
        if isinstance(error, DeviceLost):
            self._lost = str(error)
        if error is not None:
            raise error

    def _enqueue(self, stream, operation):
        stream.append(operation)
        if self._random.random() < 0.2:
            self._step()

    def _step(self):
        """Runs one operation that may run now; whether there was one."""
        if len(self.launches) < self._after_launches:
            return False
        ready = [stream for stream in self._streams if stream and stream[0].is_ready()]
        if not ready:
            return False
        stream = self._random.choice(ready)
        stream[0].act()
        stream.popleft()
        return True

    def _host(self, address, nbytes):
        ranges = [(self._pinned, 0), (self._registered, nbytes)]
        for start, size, direct in [(*each, n) for held, n in ranges for each in held.items()]:
            if start <= address and address + nbytes <= start + size:
                self.direct_bytes += direct
                memory = (ctypes.c_ubyte * nbytes).from_address(address)
                return np.frombuffer(memory, np.uint8)
        raise self._violated(f"{nbytes} bytes at {address:#x} of the host are not pinned")

    def _check_idle(self, address, nbytes):
        if self._lost is not None:
            return
        for stream in self._streams:
            for operation in stream:
                for start, size in operation.ranges:
                    if max(start, address) < min(start + size, address + nbytes):
                        self._violated(f"memory at {address:#x} goes while it is in use")

    def _violated(self, what):
        self.violations.append(what)
        return AssertionError(what)


def _aligned(nbytes):
    """Garbage that begins where a device's memory may: at a multiple of 256."""
    memory = np.full(nbytes + 256, GARBAGE, np.uint8)
    start = -memory.ctypes.data % 256
    return memory[start : start + nbytes]
