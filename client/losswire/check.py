"""`losswire check`: whether a server answers and is ready, as an exit status.

Status 0: it serves. 1: it is starting, draining, or not there. 2: the arguments are wrong. One line
says which. For container health checks and scripts; health is asked for without a token.
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
        Path | None, typer.Option(help="Use TLS with the authorities of this PEM file.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds to wait at most.")] = 5.0,
) -> None:
    """Ask a server whether it is ready.

    Example: losswire check --target unix:/run/losswire.sock
    """
    try:
        connection = Connection(target, None, ca or tls)
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
