"""What the pipeline needs of a GPU, and nothing more.

In: addresses, sizes, streams and events. Out: memory, copies and launches that run by themselves,
in the order of their stream. One thread calls all of it, except `register` and `unregister`, which
any thread may.

DeviceError
├── DeviceMemoryError   no memory now; a smaller piece may fit
├── LaunchError         a kernel cannot be compiled or started; the device goes on
└── DeviceLost          nothing on this device will work again in this process
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from losswire_proto.dtypes import Array
    from losswire_server.engine.launches import Kernel, Launch
    from losswire_server.engine.tilings import Traits


class DeviceError(Exception):
    """Something that a GPU could not do. Raised only as one of its children."""


class DeviceMemoryError(DeviceError):
    """There is no memory, on the device or pinned, for what was asked."""


class LaunchError(DeviceError):
    """A kernel could not be compiled or started."""


class DeviceLost(DeviceError):  # noqa: N818 -- what happened, as in `errors`
    """The device has failed: a fault of a kernel, of the hardware, or it was taken away."""


Stream: TypeAlias = Any
Event: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class Pinned:
    """Host memory that the device copies from and to by itself.

    Attributes:
        address: of its first byte.
        array: the same memory, bytes.
        owner: what keeps it.
    """

    address: int
    array: Array
    owner: Any = None


class Device(Protocol):
    """One GPU. Sizes are in bytes; addresses are numbers, the device's or the host's."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def traits(self) -> Traits:
        """What of it decides about geometry."""

    @property
    def memory_bytes(self) -> int:
        """All memory that it has."""

    def attach(self) -> None:
        """Makes it the device of the calling thread."""

    def allocate(self, nbytes: int) -> int:
        """Memory of the device, aligned to 256 bytes."""

    def free(self, address: int) -> None:
        """Gives it back."""

    def pin(self, nbytes: int) -> Pinned:
        """Pinned memory of the host."""

    def unpin(self, pinned: Pinned) -> None:
        """Gives it back."""

    def register(self, address: int, nbytes: int) -> None:
        """Pins memory of the host that is there already, for all devices."""

    def unregister(self, address: int) -> None:
        """Takes that back, before the memory goes."""

    def stream(self) -> Stream:
        """A queue of work; those of different streams run side by side."""

    def event(self) -> Event:
        """A mark that can be recorded in a stream, again and again."""

    def record(self, event: Event, stream: Stream) -> None:
        """Marks what the stream has been given so far."""

    def wait(self, stream: Stream, event: Event) -> None:
        """Keeps what the stream is given from now on until the mark has been reached."""

    def synchronise(self, event: Event) -> None:
        """Waits, here, until the mark has been reached."""

    def is_reached(self, event: Event) -> bool:
        """Whether the mark has been reached."""

    def upload(self, target: int, source: int, nbytes: int, stream: Stream) -> None:
        """Copies from the host to the device."""

    def download(self, target: int, source: int, nbytes: int, stream: Stream) -> None:
        """Copies from the device to the host."""

    def compile(self, kernel: Kernel) -> None:
        """Compiles a kernel now rather than at its first launch."""

    def launch(self, launch: Launch, arguments: Array, stream: Stream) -> None:
        """Starts a kernel, with a record of `launches.ARGUMENTS` as its argument."""

    def close(self) -> None:
        """Lets streams, events and kernels go."""
