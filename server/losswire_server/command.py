"""`losswire serve`: settings, logs, signals, and the exit status."""

from __future__ import annotations

import asyncio
import sys

import typer

from losswire_server import logs, memory, runtime
from losswire_server.config import ServerSettings, load_settings
from losswire_server.errors import ServingFailed, StartupError


def register(app: typer.Typer) -> None:
    """Adds `serve`, whose flags are the settings' own."""
    app.command(
        "serve",
        help="Serve losses until SIGTERM or Ctrl-C; --help lists the settings.",
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )(serve)


def serve(context: typer.Context) -> None:
    """Runs a server with the settings that flags, environment and file give."""
    try:
        settings = load_settings(context.args)
        logs.configure(settings)
        memory.keep_buffers(settings.pool_bytes)
        asyncio.run(_serve(settings))
    except StartupError as error:
        sys.stderr.write(f"losswire serve: {error}\n")
        raise typer.Exit(2) from error
    except ServingFailed as error:
        sys.stderr.write(f"losswire serve: {error}\n")
        raise typer.Exit(1) from error


async def _serve(settings: ServerSettings) -> None:
    stop = asyncio.Event()
    runtime.stop_on_signals(stop)
    await runtime.serve(settings, stop, on_ready=lambda _target: None)
