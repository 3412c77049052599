"""`losswire check`: whether a server answers and is ready, as an exit status.

Status 0: it serves. 1: it is starting, draining, or not there. 2: the arguments are wrong. One line
says which. For container health checks and scripts; health is asked for without a token.

In a server's own container LOSSWIRE_TLS_CERTIFICATE is set for both: the check trusts that
certificate alone, by whatever name it has, so that an image's check needs no authority and no
public name.
"""

from __future__ import annotations

import sys
from pathlib import Path  # noqa: TC003 -- typer looks at annotations
from typing import Annotated, Any

import grpc
import typer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from losswire._base import DEFAULT_TARGET
from losswire._channel import Connection
from losswire._errors import InvalidInput


def register(app: typer.Typer) -> None:
    """Adds `check`."""
    app.command("check")(check)


def check(
    target: Annotated[str, typer.Option(envvar="LOSSWIRE_TARGET", help="Server.")] = DEFAULT_TARGET,
    tls: Annotated[bool, typer.Option(help="Use TLS with the system's authorities.")] = False,
    ca: Annotated[
        Path | None,
        typer.Option(
            envvar="LOSSWIRE_CHECK_CA", help="Use TLS with the authorities of this PEM file."
        ),
    ] = None,
    server_certificate: Annotated[
        Path | None,
        typer.Option(
            envvar="LOSSWIRE_TLS_CERTIFICATE",
            help="Use TLS and trust this PEM file's first certificate, unless told otherwise.",
        ),
    ] = None,
    server_name: Annotated[
        str | None,
        typer.Option(
            envvar="LOSSWIRE_CHECK_SERVER_NAME", help="That the server's certificate has."
        ),
    ] = None,
    certificate: Annotated[
        Path | None,
        typer.Option(envvar="LOSSWIRE_CHECK_CERTIFICATE", help="PEM file: to show to the server."),
    ] = None,
    key: Annotated[
        Path | None, typer.Option(envvar="LOSSWIRE_CHECK_KEY", help="PEM file: its key.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds to wait at most.")] = 5.0,
) -> None:
    """Ask a server whether it is ready.

    Example: losswire check --target unix:/run/losswire.sock
    """
    if server_certificate is not None and not (ca or tls or target.startswith("unix:")):
        ca, server_name = server_certificate, server_name or _name_of(server_certificate)
    try:
        trust = _credentials(ca, certificate, key) if certificate or key else ca or tls
        connection = Connection(target, None, trust, timeout=timeout, server_name=server_name)
    except InvalidInput as error:
        sys.stderr.write(f"losswire check: {error}\n")
        raise typer.Exit(2) from error
    stub: Any = health_pb2_grpc.HealthStub(connection.channel())
    try:
        reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout)
    except grpc.RpcError as error:
        is_late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        words = f"no answer within {timeout:g} s" if is_late else error.details()
        sys.stderr.write(f"losswire check: {target}: {words}\n")
        raise typer.Exit(1) from error
    finally:
        connection.close()
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
    typer.echo(f"{target}: {status}")
    if reply.status != health_pb2.HealthCheckResponse.SERVING:
        raise typer.Exit(1)


def _credentials(
    ca: Path | None, certificate: Path | None, key: Path | None
) -> grpc.ChannelCredentials:
    """For a server that wants to see a certificate.

    Raises:
        InvalidInput: a file is missing.
    """
    if certificate is None or key is None:
        raise InvalidInput("certificate, key: expected both or neither")
    try:
        authorities = None if ca is None else ca.read_bytes()
        return grpc.ssl_channel_credentials(authorities, key.read_bytes(), certificate.read_bytes())
    except OSError as error:
        raise InvalidInput(
            f"certificate: expected readable files, received {error.filename} ({error.strerror})"
        ) from error


def _name_of(certificate: Path) -> str | None:
    """A name that a certificate is good for; None where it shows none."""
    # What a server is installed with; a client alone has no such file.
    from cryptography import x509  # noqa: PLC0415 -- the same

    try:
        shown = x509.load_pem_x509_certificate(certificate.read_bytes())
        names = shown.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return None  # what is wrong with the file is said where it is trusted
    hosts = names.get_values_for_type(x509.DNSName)
    hosts += [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return hosts[0].replace("*", "losswire", 1) if hosts else None
