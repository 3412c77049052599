"""Memory handed over by clients in other containers: open files, passed over a Unix socket.

In: connections to a socket in a directory that both sides mount; each message is a name and one
open file. Out: the file of a name, once. What OpenRegion announces by `shared_file` was handed over
here before; it is checked like any other region. A connection stands for its client: when it ends,
the memory that came over it is let go.

Nothing but the socket has a name, so nobody's death leaves anything behind.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from losswire_server.errors import StartupError
from losswire_server.mappings import refused

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NAME_BYTES: Final = 16
"""Of a name: random, and hexadecimal in `shared_file`."""

TAKEN: Final = b"\x01"
"""The answer to a file that was taken."""

MOST_CONNECTIONS: Final = 64
MOST_WAITING: Final = 3
"""Files of a connection that OpenRegion has not asked for yet. With the connections, a quarter of
the 1024 file descriptors that a process usually has."""


@dataclass(slots=True)
class _Client:
    """A connection, and the files that came over it and wait, by name."""

    connection: socket.socket
    number: int
    waiting: dict[str, int] = field(default_factory=dict)


class Handover:
    """Takes files from clients. For one event loop.

    Args:
        folder: that clients see, too.
        forget: called with a client's number when it has gone.

    Attributes:
        path: of the socket.

    Raises:
        StartupError: there can be no socket in the folder.
    """

    def __init__(self, folder: Path, forget: Callable[[int], None]) -> None:
        self._forget = forget
        self._clients: dict[int, _Client] = {}
        self._last_number = 0
        self.path = folder / f"losswire-{os.getpid()}-{secrets.token_hex(4)}.sock"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.setblocking(False)
        try:
            self._listener.bind(str(self.path))
            # Other containers have other users; who may come here is the folder's to say.
            self.path.chmod(0o666)
        except OSError as error:
            self._listener.close()
            raise StartupError(
                f"shared_directory: cannot make a socket in {folder}: {error.strerror or error};"
                " it has to exist and to be writable, and its path to be short"
            ) from error
        self._listener.listen()
        asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def take(self, name: str) -> tuple[int, int]:
        """The client that handed a file over, and the file, which is the caller's to close.

        Raises:
            NotAllowed: nobody did.
        """
        for client in self._clients.values():
            file = client.waiting.pop(name, None)
            if file is not None:
                return client.number, file
        raise refused()

    def close(self) -> None:
        """Ends all connections, and lets the memory go that came over them."""
        asyncio.get_running_loop().remove_reader(self._listener)
        self._listener.close()
        self.path.unlink(missing_ok=True)
        for client in list(self._clients.values()):
            self._end(client)

    def _accept(self) -> None:
        with suppress(OSError):  # gone again, or no file descriptors are left
            connection, _ = self._listener.accept()
            if len(self._clients) >= MOST_CONNECTIONS:
                connection.close()
                return
            connection.setblocking(False)
            self._last_number -= 1  # processes have positive ones
            client = self._clients[self._last_number] = _Client(connection, self._last_number)
            asyncio.get_running_loop().add_reader(connection, self._receive, client)

    def _receive(self, client: _Client) -> None:
        try:
            name, files, flags, _ = socket.recv_fds(client.connection, NAME_BYTES + 1, 1)
        except BlockingIOError:
            return
        except OSError:
            self._end(client)
            return
        for file in files:
            os.set_inheritable(file, False)
        is_whole = not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
        is_well = is_whole and len(name) == NAME_BYTES and len(files) == 1
        if not is_well or len(client.waiting) >= MOST_WAITING or name.hex() in client.waiting:
            for file in files:
                os.close(file)
            self._end(client)
            return
        client.waiting[name.hex()] = files[0]
        try:
            client.connection.send(TAKEN)
        except OSError:
            self._end(client)

    def _end(self, client: _Client) -> None:
        if self._clients.pop(client.number, None) is None:
            return
        asyncio.get_running_loop().remove_reader(client.connection)
        client.connection.close()
        for file in client.waiting.values():
            os.close(file)
        self._forget(client.number)
