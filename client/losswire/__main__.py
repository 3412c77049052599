"""`losswire` and `python -m losswire`: the command line, or one line on what it needs."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs the command line; exit status 2 where its packages are missing."""
    try:
        from losswire.cli import app  # noqa: PLC0415 -- a base install has no typer
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"losswire: the command line needs {error.name}: pip install 'losswire[server]',"
            " or 'losswire[demo]'\n"
        )
        raise SystemExit(2) from error
    app(prog_name="losswire")


if __name__ == "__main__":
    main()
