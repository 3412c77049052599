"""Settings that are sound one by one and not together.

In: settings. Out: nothing, or a `StartupError` of one line that says which to change; a line for
the log where some clients can be served and others cannot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from losswire_server.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from losswire_server.config import ServerSettings


LARGEST_BLOCK: Final = 48 << 20
"""Bytes that a block of the Python client takes at most, unless a single row is larger: 4 MiB of
float16 logits, float64 labels for each, the gradients to both, and float32 losses for each."""


def check(settings: ServerSettings) -> None:
    """Refuses settings that contradict each other.

    Raises:
        StartupError: names them and what to do.
    """
    if settings.max_message_bytes > settings.queue_bytes:
        raise StartupError(
            f"max_message_bytes: expected at most queue_bytes ({settings.queue_bytes}), since no"
            f" larger request is ever admitted, received {settings.max_message_bytes};"
            " lower it or raise queue_bytes"
        )
    if settings.tls_certificate and not settings.tls_key:
        raise StartupError("tls_key: not set, but tls_certificate is; name the certificate's key")
    if settings.tls_key and not settings.tls_certificate:
        raise StartupError("tls_certificate: not set, but tls_key is; name the key's certificate")
    if settings.tls_client_ca and not settings.tls_certificate:
        raise StartupError(
            "tls_certificate: not set, but tls_client_ca is; clients' certificates are looked at"
            " over TLS alone: name the server's certificate and key"
        )
    if settings.tls_certificate and settings.unix_socket:
        raise StartupError(
            "unix_socket: set, and so is tls_certificate; a socket is protected by its permissions"
            " (unix_socket_mode), TLS is for TCP: leave out one of them"
        )
    if settings.shared_directory and not settings.max_region_bytes:
        raise StartupError(
            "shared_directory: set, but max_region_bytes is 0, so that nothing is shared; raise it"
            " or leave out the directory"
        )


def doubts(settings: ServerSettings) -> Iterator[str]:
    """What will not do for every client, a line each."""
    share = int(settings.stream_bytes * settings.client_share)
    if share < LARGEST_BLOCK:
        yield (
            f"stream_bytes: a client's share of it (client_share) is {share} bytes, and blocks of"
            f" the Python client take up to {LARGEST_BLOCK}; the larger ones are refused: raise one"
            " of the two"
        )
