"""Files handed to a server in another container of this host, over a socket that both see.

In: a region's file. Out: the name by which the server knows it. The connection stands for this
client: when it ends, with the process at the latest, the server lets go what came over it.
"""

from __future__ import annotations

import os
import socket
import threading
from typing import Final

from losswire import _forks as forks

_NAME_BYTES: Final = 16
_TAKEN: Final = b"\x01"
_SECONDS: Final = 5.0
"""The longest wait for a server that is there; it answers within a fraction of a millisecond."""


class Handover:
    """A connection to a server's `handover_socket`, in each process that hands files over.

    Args:
        path: of the socket, the same in both containers.
    """

    def __init__(self, path: str) -> None:
        self._connection: socket.socket | None = None
        self._path = path
        self._lock = threading.Lock()
        forks.watch(self)

    def give(self, file: int) -> str:
        """Hands an open file over; returns its name.

        Raises:
            OSError: there is no such server any more, or it takes no more.
        """
        name = os.urandom(_NAME_BYTES)
        with self._lock:
            if self._connection is None:
                self._connection = self._connected()
            try:
                socket.send_fds(self._connection, [name], [file])
                if self._connection.recv(len(_TAKEN)) != _TAKEN:
                    raise ConnectionResetError(f"{self._path}: the server takes no files")
            except OSError:
                self._drop()
                raise
        return name.hex()

    def close(self) -> None:
        """Ends the connection of this process."""
        with self._lock:
            self._drop()

    def __del__(self) -> None:
        self._drop()

    def before_fork(self) -> None:
        """Nothing is in the middle of being handed over when this process is copied."""
        self._lock.acquire()

    def after_fork_in_parent(self) -> None:
        """Goes on."""
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Lets go of the parent's connection, which would outlive the parent otherwise."""
        self._lock = threading.Lock()
        self._drop()

    def _connected(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.settimeout(_SECONDS)
            connection.connect(self._path)
        except BaseException:
            connection.close()
            raise
        return connection

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
