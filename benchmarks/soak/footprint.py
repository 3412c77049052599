"""What a process holds, as the kernel counts it; and waiting for it to let go."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    import losswire

_SHARED: Final = "memfd:losswire"
_OWNERS: Final = "pidfd"


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a process holds.

    Attributes:
        files: open descriptors.
        mappings: of clients' memory.
        regions: descriptors of clients' memory, and of the processes that own it.
    """

    files: int
    mappings: int
    regions: int

    @classmethod
    def of(cls, pid: int) -> Footprint:
        """Of a process of this user."""
        links = []
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                links.append(str(link.readlink()))
        maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8").splitlines()
        return cls(
            files=len(links),
            mappings=sum(_SHARED in line for line in maps),
            regions=sum(_SHARED in link or _OWNERS in link for link in links),
        )

    def leaks(self, before: Footprint) -> dict[str, int]:
        """How many more there are than before, of what should not become more."""
        now, then = asdict(self), asdict(before)
        return {name: now[name] - then[name] for name in now if now[name] > then[name]}


def settled(pid: int, client: losswire.Client, is_fine: Callable[[Footprint], bool]) -> Footprint:
    """Waits for a process to let go what it no longer needs; what it holds then, fine or not.

    Args:
        pid: the server's.
        client: of it; its calls are what the time is measured in, about a millisecond each.
        is_fine: whether that is what is waited for.
    """
    client.server_info()  # its own connection is always there
    footprint = Footprint.of(pid)
    for _ in range(_LONGEST_CALLS):
        if is_fine(footprint):
            break
        client.server_info()
        footprint = Footprint.of(pid)
    return footprint


_LONGEST_CALLS: Final = 10_000
