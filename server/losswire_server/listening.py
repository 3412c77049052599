"""Where the server listens, and who can get there.

In: a gRPC server and settings. Out: the target that clients connect to, or a `StartupError`: an
address that cannot be had, or one that other machines reach in plain text without `insecure`.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

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
        _try_port(settings)
        return f"{settings.url_host}:{_add_port(server, settings, credentials)}"
    with _private_files():
        _try_path(path)
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
        raise _unusable(settings.address, "in use or not allowed") from error


def _try_port(settings: ServerSettings) -> None:
    """Asks the system, which gives a reason, before gRPC, which does not.

    gRPC is content with some of a host's addresses. One that another server has is not to be lost
    that way, since clients could reach that one; one that this machine does not have may be.
    """
    problems = []
    addresses = _resolve(settings.host, settings.port)
    for family, address in addresses:
        try:
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        except OSError as error:
            problems.append(error)
    is_taken = any(problem.errno == errno.EADDRINUSE for problem in problems)
    if is_taken or len(problems) == len(addresses):
        raise _unusable(settings.address, problems[0].strerror) from problems[0]


def _try_path(path: Path) -> None:
    """The same for a Unix socket; what a server that is gone has left there is removed."""
    address = f"unix:{path}"
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            if path.exists():
                _check_abandoned(path)
                path.unlink()
            probe.bind(str(path))
            path.unlink()
    except OSError as error:
        raise _unusable(address, error.strerror or str(error)) from error


def _check_abandoned(path: Path) -> None:
    if not path.is_socket():
        raise _unusable(f"unix:{path}", "there is a file that is no socket")
    with socket.socket(socket.AF_UNIX) as client, suppress(ConnectionRefusedError):
        client.connect(str(path))
        raise _unusable(f"unix:{path}", "another server answers there")


def _unusable(address: str, reason: str | None) -> StartupError:
    return StartupError(
        f"cannot listen on {address}: {reason}; choose another with --port, --host or --unix-socket"
    )


def _is_loopback(host: str) -> bool:
    """Whether all addresses of a host are those of this machine to itself."""
    addresses = {str(address[0]).partition("%")[0] for _, address in _resolve(host, 0)}
    return all(ipaddress.ip_address(address).is_loopback for address in addresses)


def _resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, Any]]:
    """The addresses of a host, with a port."""
    try:
        found = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise StartupError(f"host: {host!r} cannot be resolved: {reason}") from error
    return [(family, address) for family, *_, address in found]


@contextmanager
def _private_files() -> Iterator[None]:
    """What is made meanwhile is its owner's alone: a socket takes connections at once."""
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)
