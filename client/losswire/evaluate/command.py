"""`losswire loss`: the arguments, the progress bar, the files and the exit status.

Status 0: done. 1: the server failed or is not there; no file is left half written. 2: an argument
or a file is wrong. One line says what.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path  # noqa: TC003 -- typer looks at annotations
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from losswire._client import Client
from losswire._commands import Authorities, TokenFile, read_token
from losswire._errors import InvalidInput, LosswireError
from losswire.evaluate import files
from losswire.evaluate.blocks import Evaluation, evaluate
from losswire_proto.losses import LOSSES


def register(app: typer.Typer) -> None:
    """Adds `loss`."""
    app.command("loss")(loss)


def loss(
    name: Annotated[str, typer.Argument(help="The loss, as the client's method is called.")],
    logits: Annotated[str, typer.Argument(help="FILE or FILE:TENSOR.")],
    labels: Annotated[str | None, typer.Argument(help="The same; none for softmax.")] = None,
    axis: Annotated[int, typer.Option(help="The class axis.")] = -1,
    reduction: Annotated[str, typer.Option(help="none, sum or mean.")] = "mean",
    option: Annotated[
        list[str] | None, typer.Option(help="Further keyword, as in label_smoothing=0.1; repeat.")
    ] = None,
    losses: Annotated[
        Path | None, typer.Option(help="Write the per-example losses to this .npy file.")
    ] = None,
    gradient: Annotated[
        Path | None, typer.Option(help="Write the gradient, or the output, to this .npy file.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="Server; LOSSWIRE_TARGET, else localhost:50051.")
    ] = None,
    token_file: TokenFile = None,
    ca: Authorities = None,
    timeout: Annotated[float, typer.Option(help="Seconds that a block may take.")] = 60.0,
) -> None:
    """Evaluate a loss over tensors in .npy, .npz or .safetensors files.

    Files are read, and gradients written, as the work goes on: neither is loaded whole.

    Example: losswire loss softmax_cross_entropy logits.npy labels.npy --gradient grad.npy
    """
    try:
        asked = Evaluation(
            loss=_known(name),
            logits=files.read(logits),
            labels=None if labels is None else files.read(labels),
            axis=axis,
            reduction=reduction,
            options=dict(_option(each) for each in option or ()),
            losses=losses,
            gradient=gradient,
        )
        with Client(target, token=read_token(token_file), tls=ca, timeout=timeout) as client:
            result = _watched(asked, client)
    except InvalidInput as error:
        raise _ended(error, 2) from error
    except (LosswireError, OSError) as error:
        raise _ended(error, 1) from error
    for line in result:
        typer.echo(line)


def _ended(error: Exception, status: int) -> typer.Exit:
    sys.stderr.write(f"losswire loss: {' '.join(str(error).split())}\n")
    return typer.Exit(status)


def _known(name: str) -> str:
    if name not in LOSSES:
        raise InvalidInput(f"name: expected one of {', '.join(LOSSES)}, received {name!r}")
    return name


def _option(text: str) -> tuple[str, Any]:
    """A keyword and its value: JSON, or text as it is."""
    name, sign, value = text.partition("=")
    if not sign:
        raise InvalidInput(f"option: expected NAME=VALUE, received {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _watched(asked: Evaluation, client: Client) -> list[str]:
    """Evaluates with a progress bar; what is to be said of the result."""
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    is_seen = console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=not is_seen) as progress:
        task = progress.add_task(asked.loss, total=asked.rows)
        outcome = evaluate(asked, client, lambda rows: progress.advance(task, rows))
    lines = [f"examples  {outcome.examples}"]
    if outcome.loss is not None:
        lines.append(f"loss      {outcome.loss!r}")
    elif outcome.examples:
        lines.append(f"sum       {outcome.total!r}")
        lines.append(f"mean      {float(np.divide(outcome.total, outcome.examples))!r}")
    written = (("losses", asked.losses), ("gradient", asked.gradient))
    lines += [f"{name:<9} {path}" for name, path in written if path is not None]
    return lines
