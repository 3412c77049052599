"""`losswire bench`: the arguments, the check, the progress bar, the table and the exit status.

Status 0: every call came back right. 1: some failed or were wrong. 2: the arguments are wrong, or
the server cannot be reached or refuses the call; one line says why.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path  # noqa: TC003 -- typer looks at annotations
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from losswire._base import DEFAULT_TIMEOUT
from losswire._client import Client
from losswire._commands import Authorities, TokenFile, read_token
from losswire._errors import InvalidInput, LosswireError
from losswire.bench import chart
from losswire.bench.figures import Report
from losswire.bench.load import Budget, Load, run
from losswire.bench.problem import Problem, WrongResult, parse_shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from losswire._results import ServerInfo
    from losswire.bench.load import Samples

_DEFAULT_SECONDS: Final = 10.0


def register(app: typer.Typer) -> None:
    """Adds `bench`."""
    app.command("bench")(bench)


def bench(
    target: Annotated[
        str | None, typer.Option(help="Server; LOSSWIRE_TARGET, else localhost:50051.")
    ] = None,
    shape: Annotated[str, typer.Option(help="Of the logits, classes last.")] = "8192x1000",
    dtype: Annotated[
        str, typer.Option(help="Of the logits: float16, bfloat16, float32 or float64.")
    ] = "float32",
    loss: Annotated[str, typer.Option(help="Method of the client.")] = "softmax_cross_entropy",
    transport: Annotated[str, typer.Option(help="Path: auto, inline, stream or shared.")] = "auto",
    client: Annotated[str, typer.Option(help="Threads or tasks: sync or async.")] = "sync",
    concurrency: Annotated[int, typer.Option(min=1, help="Calls in flight.")] = 1,
    connections: Annotated[int, typer.Option(min=1, help="Clients that share them.")] = 1,
    duration: Annotated[
        float | None, typer.Option(help="Seconds of load; 10 unless --requests says how much.")
    ] = None,
    requests: Annotated[int | None, typer.Option(min=1, help="Calls to make.")] = None,
    warm_up: Annotated[int, typer.Option(min=0, help="Calls of each caller before.")] = 3,
    timeout: Annotated[float, typer.Option(help="Seconds that a call may take.")] = DEFAULT_TIMEOUT,
    token_file: TokenFile = None,
    tls: Annotated[
        bool, typer.Option("--tls", help="Use TLS with the system's authorities.")
    ] = False,
    ca: Authorities = None,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write the figures to this file.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw a chart into this file.")] = None,
) -> None:
    """Put a load on a server and measure latencies, calls and bytes per second."""
    console = Console()
    connection = {
        "target": target,
        "transport": transport,
        "timeout": timeout,
        "tls": ca or tls,
        "retries": False,  # what is refused is to be seen
    }
    try:
        connection["token"] = read_token(token_file)
        if client not in {"sync", "async"}:
            raise InvalidInput(f"client: expected 'sync' or 'async', received {client!r}")
        if duration is not None and not 0 < duration < float("inf"):
            raise InvalidInput(f"duration: expected seconds > 0, received {duration}")
        if duration is None and requests is None:
            duration = _DEFAULT_SECONDS
        problems = Problem.several(loss, parse_shape(shape), dtype, concurrency)
        connection["target"], info = _checked(connection, problems)
    except (LosswireError, WrongResult) as error:
        sys.stderr.write(f"losswire bench: {' '.join(str(error).split())}\n")
        raise typer.Exit(1 if isinstance(error, WrongResult) else 2) from error
    load = Load(
        problems=problems,
        connection=connection,
        client="async" if client == "async" else "sync",
        concurrency=concurrency,
        connections=connections,
        requests=requests,
        duration=duration,
        warm_up=warm_up,
    )
    console.print(
        f"server   {connection['target']}, {info.backend} on {info.device}", soft_wrap=True
    )
    samples = _watched(console, load)
    report = Report.of(load, info, samples)
    _finish(console, report, samples, json_path, plot)


def _checked(connection: dict[str, Any], problems: Sequence[Problem]) -> tuple[str, ServerInfo]:
    """A call of each problem, whose answer is checked; the server's address and what it is."""
    with Client(**connection) as client:
        info = client.server_info()
        for problem in problems:
            problem.check(problem.call(client))
        return client.target, info


def _watched(console: Console, load: Load) -> Samples:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%  {task.fields[calls]} calls"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(f"{load.concurrency} in flight", total=1.0, calls=0)

        def watch(budget: Budget) -> None:
            progress.update(task, completed=budget.spent, calls=budget.taken)

        return run(load, watch)


def _finish(
    console: Console, report: Report, samples: Samples, json_path: Path | None, plot: Path | None
) -> None:
    """Prints, writes and draws; raises the exit status where calls failed."""
    rows, gigabytes = report.rows_per_second, report.gigabytes_per_second
    console.print(
        f"rate     {report.calls_per_second:.4g} calls/s, {rows:.4g} rows/s, {gigabytes:.3g} GB/s",
        highlight=False,
    )
    if report.calls:
        table = Table("latency", *report.latency_ms)
        table.add_row("ms", *(f"{value:.4g}" for value in report.latency_ms.values()))
        console.print(table)
    console.print(f"checked  {report.checked} of {report.calls} replies, a few rows each")
    if json_path is not None:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        json_path.write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")
        console.print(f"figures  {json_path}", soft_wrap=True)
    if plot is not None and report.calls:
        chart.draw(plot, report, samples)
        console.print(f"picture  {plot}", soft_wrap=True)
    for kind, error in report.errors.items():
        line = f"error    {error['count']} x {kind}: {error['message']}"
        console.print(line, style="red", highlight=False, soft_wrap=True)
    if report.errors:
        raise typer.Exit(1)
