"""Where the server listens, and who can get there.

In: a gRPC server and settings. Out: the target that clients connect to, or a `StartupError`: an
address that cannot be had, or one that other machines reach in plain text without `insecure`.
"""

from __future__ import annotations

import ipaddress
import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

from losswire_server.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import grpc

    from losswire_server.config import ServerSettings


def check_exposure(settings: ServerSettings) -> None:
    """Plain text is for this host alone, unless someone has said otherwise.

    Raises:
        StartupError: others could listen in, and nobody has said that they may.
    """
    is_protected = settings.unix_socket or settings.tls_certificate or settings.insecure
    if not is_protected and not _is_loopback(settings.host):
        raise StartupError(
            f"host: {settings.host} is reached from other machines, in plain text;"
            " set --tls-certificate and --tls-key, or accept it with --insecure"
        )


def bind(
    server: grpc.aio.Server, settings: ServerSettings, credentials: grpc.ServerCredentials | None
) -> str:
    """Listens; returns the target that clients connect to.

    Raises:
        StartupError: the address is in use or not allowed.
    """
    path = settings.unix_socket
    if path is None:
        return f"{settings.url_host}:{_add_port(server, settings, credentials)}"
    _refuse_live_socket(path)
    with _private_files():
        _add_port(server, settings, credentials)
    path.chmod(settings.unix_socket_permissions)
    return settings.address


def _add_port(
    server: grpc.aio.Server, settings: ServerSettings, credentials: grpc.ServerCredentials | None
) -> int:
    try:
        if credentials is None:
            return server.add_insecure_port(settings.address)
        return server.add_secure_port(settings.address, credentials)
    except RuntimeError as error:
        raise StartupError(
            f"cannot listen on {settings.address}: it is in use or not allowed;"
            " choose another with --port, --host or --unix-socket"
        ) from error


def _is_loopback(host: str) -> bool:
    """Whether all addresses of a host are those of this machine to itself."""
    try:
        found = socket.getaddrinfo(host.strip("[]") or None, None, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise StartupError(f"host: {host} cannot be resolved: {error.strerror}") from error
    addresses = {str(address[0]).partition("%")[0] for *_, address in found}
    return all(ipaddress.ip_address(address).is_loopback for address in addresses)


@contextmanager
def _private_files() -> Iterator[None]:
    """What is made meanwhile is its owner's alone: a socket takes connections at once."""
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)


def _refuse_live_socket(path: Path) -> None:
    """Keeps gRPC from replacing the socket file of a server that still answers."""
    if not path.exists():
        return
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return
    raise StartupError(f"cannot listen on unix:{path}: another server answers there")
