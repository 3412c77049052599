"""What several commands take: whom to trust, and a bearer token.

No option carries the token itself, since `ps` shows options.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from losswire._errors import InvalidInput

TokenFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(help="File whose first line is the bearer token; else LOSSWIRE_TOKEN is."),
]
Authorities: TypeAlias = Annotated[
    Path | None, typer.Option("--ca", help="Use TLS with the authorities of this PEM file.")
]


def read_token(path: Path | None) -> str | None:
    """The token of a file, else that of the environment; None for none.

    Raises:
        InvalidInput: the file cannot be read or has no first line.
    """
    if path is None:
        return os.environ.get("LOSSWIRE_TOKEN") or None
    try:
        token = path.read_text(encoding="ascii").partition("\n")[0].strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"token-file: cannot read {path}: {_reason(error)}") from error
    if not token:
        raise InvalidInput(f"token-file: expected a token in the first line of {path}")
    return token


def _reason(error: Exception) -> str:
    # What cannot be decoded would be quoted, and may be a secret.
    return str(error.strerror) if isinstance(error, OSError) else "it is not ASCII"
