"""Ways to a server: plain TCP, a Unix socket, TLS; each with a proxy before it that does harm."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeAlias

import trustme

import losswire
from benchmarks.soak.faults import KINDS, UNDETECTED_IN_PLAIN_TEXT, Deck
from benchmarks.soak.proxy import Proxy
from benchmarks.soak.watched import WatchedServer

if TYPE_CHECKING:
    from collections import Counter
    from pathlib import Path

    from benchmarks.loop import Loop
    from benchmarks.soak.faults import Kind
    from benchmarks.soak.proxy import Watch

LinkKind: TypeAlias = Literal["tcp", "unix", "tls"]
LINKS: Final[tuple[LinkKind, ...]] = ("tcp", "unix", "tls")

_BOUNDS: Final = {
    "max_message_bytes": 32 << 20,
    "queue_bytes": 48 << 20,
    "stream_bytes": 32 << 20,  # of which a client has half: a block of 12 MiB, at most
}
"""Little, so that servers are full at times, blocks have to wait, and memory soon is what it will
be."""

_INCIDENT: Final = "incident="


class Link:
    """A server in a process of its own, and a proxy before it.

    Args:
        kind: how clients connect.
        loop: what proxies run on.
        folder: for sockets, certificates and the server's log.
        seed: of the faults.
        every: chunks from one fault to the next.
    """

    def __init__(self, kind: LinkKind, loop: Loop, folder: Path, seed: int, every: int) -> None:
        self.kind = kind
        self.tls: str | None = None
        self.restarts = 0
        self._loop = loop
        self._folder = folder
        self._proxies = 0
        self._settings: dict[str, Any] = {"engine": "numpy", **_BOUNDS}
        kinds = tuple(each for each in KINDS if each != UNDETECTED_IN_PLAIN_TEXT)
        if kind == "unix":
            self._settings["unix_socket"] = folder / "server.sock"
        if kind == "tls":
            kinds = KINDS
            self.tls = str(folder / "authority.pem")
            self._settings |= _certified(folder)
        self._is_unix = kind == "unix"
        self._log = (folder / "server.log").open("a", encoding="utf-8")
        self.server = WatchedServer(log=self._log, **self._settings)
        self.proxy = self.new_proxy(Deck(seed, every, kinds))

    @property
    def target(self) -> str:
        """Where clients connect to: the proxy."""
        return self.proxy.target

    @property
    def injected(self) -> Counter[Kind]:
        """Faults by kind."""
        return self.proxy.injected

    @property
    def incidents(self) -> int:
        """Faults of the server's own, by its log."""
        log = (self._folder / "server.log").read_text(encoding="utf-8", errors="replace")
        return log.count(_INCIDENT)

    def new_proxy(self, deck: Deck | None = None, watch: Watch | None = None) -> Proxy:
        """One more way to the server; whoever asks for it closes it."""
        self._proxies += 1
        path = self._folder / f"proxy{self._proxies}.sock" if self._is_unix else None
        return Proxy(self._loop, self.server.target, deck, watch, path)

    def client(self) -> losswire.Client:
        """A client without a proxy."""
        return losswire.Client(self.server.target, tls=self.tls)

    def restart(self) -> None:
        """Kills the server, and starts another that clients find in its place."""
        os.kill(self.server.pid, signal.SIGKILL)
        self.server.close()
        self.server = WatchedServer(log=self._log, **self._settings)
        self.proxy.upstream = self.server.target
        self.restarts += 1

    def close(self) -> None:
        """Ends both."""
        self.proxy.close()
        self.server.close()
        self._log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _certified(folder: Path) -> dict[str, Any]:
    """Settings of a server with a certificate; its authority's lies beside it."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "authority.pem"))
    issued = authority.issue_cert("127.0.0.1")
    chain, key = folder / "server.pem", folder / "server.key"
    chain.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(str(key))
    return {"host": "127.0.0.1", "tls_certificate": chain, "tls_key": key}
