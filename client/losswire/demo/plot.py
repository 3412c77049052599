"""The picture of a run: its loss curve, and its numbers beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from losswire.demo.training import Run


def draw(path: Path, remote: Run, local: Run) -> None:
    """Writes the loss of every step and the accuracy of every epoch to an image file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 -- slow to import
    from matplotlib.figure import Figure  # noqa: PLC0415 -- the same

    figure = Figure(figsize=(10, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    curves, numbers = figure.subplots(1, 2, width_ratios=(3, 1))
    per_epoch = len(remote.losses) / len(remote.epochs)
    steps = [(index + 1) / per_epoch for index in range(len(remote.losses))]
    curves.plot(
        steps, remote.losses, color="tab:blue", linewidth=2.5, alpha=0.5, label="loss over gRPC"
    )
    curves.plot(
        steps, local.losses, color="black", linewidth=0.7, label="loss computed in the worker"
    )
    curves.set(xlabel="epoch", ylabel="mean cross-entropy of a step", yscale="log")
    accuracy = curves.twinx()
    accuracy.plot(
        [epoch.number for epoch in remote.epochs],
        [epoch.accuracy for epoch in remote.epochs],
        color="tab:orange",
        label="test accuracy",
    )
    accuracy.set(ylabel="test accuracy", ylim=(0, 1))
    figure.legend(loc="outside lower center", ncols=3)
    numbers.axis("off")
    numbers.text(0, 1, _numbers(remote, local), va="top", family="monospace", fontsize=9)
    figure.suptitle("Handwritten digits, every loss and gradient over gRPC")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _numbers(remote: Run, local: Run) -> str:
    rows = {
        "epochs": f"{len(remote.epochs)}",
        "steps": f"{len(remote.losses)}",
        "requests": f"{remote.requests}",
        "first loss": f"{remote.losses[0]:.4f}",
        "last loss": f"{remote.losses[-1]:.4f}",
        "accuracy": f"{remote.epochs[-1].accuracy:.4f}",
        "difference": f"{remote.difference(local):.1e}",
    }
    return "\n".join(f"{name:<11}{value:>9}" for name, value in rows.items())
