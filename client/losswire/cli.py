"""The command line: subcommands are plug-ins of the entry-point group `losswire.commands`.

So `losswire serve` can come from the server's package, which the client's never imports. A plug-in
is a function that adds its commands to the app.
"""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points

import typer

from losswire_proto import __version__

app = typer.Typer(
    name="losswire",
    help="Classification losses and their gradients over gRPC.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        typer.echo(f"losswire {__version__}")
        raise typer.Exit


@app.callback()
def losswire(
    _version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Classification losses and their gradients over gRPC."""


def _plug_in(plug: EntryPoint) -> None:
    """Adds a plug-in's commands, or a stand-in that says what it needs."""
    try:
        register = plug.load()
    except ModuleNotFoundError as error:
        missing = error.name

        def stand_in() -> None:
            sys.stderr.write(
                f"losswire {plug.name}: needs {missing}: pip install 'losswire[server]',"
                " or 'losswire[demo]' for the demo, 'losswire[bench]' for bench, loss and top\n"
            )
            raise typer.Exit(2)

        help_text = f"Not installed: needs {missing}."
        extra = {"allow_extra_args": True, "ignore_unknown_options": True}
        app.command(plug.name, help=help_text, context_settings=extra)(stand_in)
        return
    register(app)


for _plug in sorted(entry_points(group="losswire.commands"), key=lambda plug: plug.name):
    _plug_in(_plug)
