"""TLS: the server's certificate and key, and whose certificates it wants of clients.

In: PEM files. Out: gRPC credentials that follow them: before each handshake the files are looked
at, so new connections get a new certificate and old ones live on. Files that cannot be used, do not
belong together or have expired are a `StartupError`; where they become so later, the last good ones
stay. A certificate that is about to expire is a warning in the log.
"""

from __future__ import annotations

import os
import ssl
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

import grpc
import structlog
from cryptography import x509

from losswire_server.errors import StartupError
from losswire_server.reloading import Reloaded, read_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from losswire_server.config import ServerSettings

_PEM: Final = "a PEM file"

SOON: Final = timedelta(days=14)
"""Before its end a certificate should have been replaced; short-lived ones in their last third."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """What TLS needs, and how long it is good for.

    Attributes:
        configuration: for gRPC.
        warn_after: when a replacement is late.
        expires: when clients will not connect any more.
    """

    configuration: grpc.ServerCertificateConfiguration
    warn_after: datetime
    expires: datetime


def server_credentials(settings: ServerSettings) -> grpc.ServerCredentials | None:
    """Credentials of the files that the settings name; None where they name none.

    Raises:
        StartupError: names the setting and what is wrong with its file.
    """
    certificate, key = settings.tls_certificate, settings.tls_key
    authorities = settings.tls_client_ca
    if certificate is None or key is None:
        return None
    paths = [certificate, key] + ([authorities] if authorities else [])
    current = Reloaded(
        "tls_certificate", paths, lambda: read_certificates(certificate, key, authorities)
    )
    reminder = _Reminder(current.value)

    def fetch() -> Any:  # None for no change, which gRPC's stubs do not know
        is_new = current.refresh()
        reminder.look(current.value)
        return current.value.configuration if is_new else None

    return grpc.dynamic_ssl_server_credentials(
        current.value.configuration, fetch, require_client_authentication=authorities is not None
    )


class _Reminder:
    """Says once of each certificate in the log that it expires soon: now, or at a handshake."""

    def __init__(self, certificates: Certificates) -> None:
        self._told: Certificates | None = None
        self.look(certificates)

    def look(self, certificates: Certificates) -> None:
        if certificates is not self._told and datetime.now(UTC) >= certificates.warn_after:
            self._told = certificates
            expires = certificates.expires.isoformat()
            structlog.get_logger().warning(
                "expires_soon", setting="tls_certificate", expires=expires
            )


def read_certificates(certificate: Path, key: Path, authorities: Path | None) -> Certificates:
    """What the files hold, once it has been found to be usable.

    Raises:
        StartupError: as `server_credentials`.
    """
    chain = read_file("tls_certificate", certificate, _PEM)
    secret = read_file("tls_key", key, _PEM)
    _check_pair(certificate, chain, key, secret)
    begins, expires = _validity(certificate, chain)
    roots = None
    if authorities is not None:
        roots = read_file("tls_client_ca", authorities, _PEM)
        _check_certificates("tls_client_ca", authorities, roots)
    configuration = grpc.ssl_server_certificate_configuration([(secret, chain)], roots)
    return Certificates(configuration, expires - min(SOON, (expires - begins) / 3), expires)


def _check_pair(certificate: Path, chain: bytes, key: Path, secret: bytes) -> None:
    # The certificate is not loaded without a key; that it is one is found out as of authorities.
    _check_certificates("tls_certificate", certificate, chain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        with _in_memory(chain) as chain_path, _in_memory(secret) as secret_path:
            # Without a password Python would ask for one at the terminal.
            context.load_cert_chain(chain_path, secret_path, password=b"")
    except (ssl.SSLError, ValueError) as error:
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            problem = f"{key} is not the key of {certificate}; name the two that belong together"
        else:
            problem = f"{key} holds no private key without a password; name a PEM file"
        raise StartupError(f"tls_key: {problem}") from error


def _validity(path: Path, chain: bytes) -> tuple[datetime, datetime]:
    """From when to when the first certificate of a chain, the server's own, is good: it is now."""
    try:
        certificate = x509.load_pem_x509_certificate(chain)
        begins, expires = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except ValueError as error:
        raise StartupError(
            f"tls_certificate: {path} holds no certificate that can be read; name a PEM file"
        ) from error
    now = datetime.now(UTC)
    if now > expires:
        raise StartupError(
            f"tls_certificate: {path} has expired on {expires.isoformat()}; name one that is good"
        )
    if now < begins:
        raise StartupError(
            f"tls_certificate: {path} is not valid before {begins.isoformat()};"
            " name one that is, or look at this machine's clock"
        )
    return begins, expires


def _check_certificates(setting: str, path: Path, contents: bytes) -> None:
    try:
        with _in_memory(contents) as readable:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(readable)
    except ssl.SSLError as error:
        raise StartupError(f"{setting}: {path} holds no certificate; name a PEM file") from error


@contextmanager
def _in_memory(contents: bytes) -> Iterator[str]:
    """A path to what was read: Python's TLS reads files alone, and these may change meanwhile."""
    descriptor = os.memfd_create("pem")
    try:
        os.write(descriptor, contents)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
