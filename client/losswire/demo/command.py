"""`losswire demo`: the run, its progress bar, its picture and its last line."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from importlib.metadata import entry_points
from pathlib import Path  # noqa: TC003 -- typer looks at annotations
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

import losswire
from losswire.demo.plot import draw
from losswire.demo.training import Digits, Run
from losswire.demo.workers import Shard, Workers

if TYPE_CHECKING:
    from collections.abc import Sequence

LEAST_ACCURACY: Final = 0.95
LARGEST_DIFFERENCE: Final = 1e-5


def register(app: typer.Typer) -> None:
    """Adds `demo`."""
    app.command("demo")(demo)


def demo(
    target: Annotated[
        str | None, typer.Option(help="Server to use; a local one is started if none is named.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes.")] = 3,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training set.")] = 30,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a step, over all workers.")] = 96,
    plot: Annotated[Path | None, typer.Option(help="Write the loss curve to this file.")] = None,
) -> None:
    """Train a digit classifier whose every loss and gradient comes over gRPC."""
    console = Console()
    digits = Digits.load()
    shards = digits.shards(workers)
    if min(len(shard.labels) for shard in shards) * workers < batch_size:
        raise typer.BadParameter(
            f"at most {len(digits.train.labels)} images", param_hint="batch-size"
        )
    try:
        with ExitStack() as stack:
            address = target or stack.enter_context(_local_server()).target
            info = stack.enter_context(losswire.Client(address)).server_info()
            learnt, tested = len(digits.train.labels), len(digits.test.labels)
            console.print(f"server   {address}, {info.backend} on {info.device}")
            console.print(f"data     {learnt} scans to learn from, {tested} to test on")
            console.print(f"workers  {workers} processes, {batch_size} images a step")
            remote = _train(console, "over gRPC", digits, shards, address, epochs, batch_size)
        local = _train(console, "in the worker", digits, shards, None, epochs, batch_size)
    except losswire.LosswireError as error:
        console.print(f"losswire demo: {error}", style="red", highlight=False)
        raise typer.Exit(1) from error
    accuracy, difference = remote.epochs[-1].accuracy, remote.difference(local)
    if plot is not None:
        draw(plot, remote, local)
        console.print(f"picture  {plot}")
    console.print(
        f"test accuracy {accuracy:.4f}, {remote.requests} requests served,"
        f" largest difference to the loss computed in the worker {difference:.1e}",
        highlight=False,
        soft_wrap=True,
    )
    if accuracy < LEAST_ACCURACY or difference > LARGEST_DIFFERENCE:
        raise typer.Exit(1)


def _train(
    console: Console,
    title: str,
    digits: Digits,
    shards: Sequence[Shard],
    target: str | None,
    epochs: int,
    batch_size: int,
) -> Run:
    columns = (
        TextColumn("{task.description:<14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}  accuracy {task.fields[accuracy]:.4f}"),
        TimeElapsedColumn(),
    )
    run = Run()
    with Workers(shards, target) as workers, Progress(*columns, console=console) as progress:
        task = progress.add_task(title, total=epochs, loss=float("nan"), accuracy=float("nan"))
        for epoch in run.train(workers, digits, shards, epochs, batch_size):
            progress.update(task, advance=1, loss=epoch.loss, accuracy=epoch.accuracy)
            if target is not None:
                progress.console.print(
                    f"epoch {epoch.number:>3}  loss {epoch.loss:.4f}"
                    f"  test accuracy {epoch.accuracy:.4f}"
                )
    return run


def _local_server() -> AbstractContextManager[Any]:
    """A server in a child process, from whichever package plugs one in."""
    for plug in entry_points(group="losswire.local_server"):
        server: AbstractContextManager[Any] = plug.load()()
        return server
    raise typer.BadParameter("no server is installed; name one", param_hint="target")
