"""The picture of a run: latencies by percentile, calls per second over time, and the numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    from losswire.bench.figures import Report
    from losswire.bench.load import Samples


def draw(path: Path, report: Report, samples: Samples) -> None:
    """Writes the chart to an image file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 -- slow to import
    from matplotlib.figure import Figure  # noqa: PLC0415 -- the same

    figure = Figure(figsize=(12, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    latencies, rates, numbers = figure.subplots(1, 3, width_ratios=(3, 3, 2))
    _draw_latencies(latencies, np.sort(np.asarray(samples.latencies)) * 1e3, report)
    seconds = [each["second"] for each in report.timeline]
    rates.step(seconds, [each["rate"] for each in report.timeline], where="post")
    rates.set(xlabel="second of the run", ylabel="calls per second", ylim=(0, None))
    rates.grid(alpha=0.3)
    numbers.axis("off")
    numbers.text(0, 1, _numbers(report), va="top", family="monospace", fontsize=9)
    load = report.load
    shape = "x".join(str(size) for size in load["shape"])
    figure.suptitle(
        f"{load['loss']} of {shape} {load['dtype']}, {load['concurrency']} in flight,"
        f" {load['client']} client, transport {load['transport']}"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _draw_latencies(axes: Any, latencies: Any, report: Report) -> None:
    """Latency over the share of slower calls, on a logarithmic axis: the tail has room."""
    slower = 1 - (np.arange(len(latencies)) + 0.5) / max(1, len(latencies))
    axes.plot(slower, latencies, color="tab:blue")
    for name in ("p50", "p90", "p99"):
        share = 1 - int(name[1:]) / 100
        axes.plot(share, report.latency_ms[name], "o", color="tab:orange")
        axes.annotate(
            name, (share, report.latency_ms[name]), (0, 6), textcoords="offset points", ha="center"
        )
    axes.set(xscale="log", xlabel="share of slower calls", ylabel="latency, ms", ylim=(0, None))
    axes.xaxis.set_major_formatter(lambda share, _position: f"{100 * share:g} %")
    axes.invert_xaxis()
    axes.grid(alpha=0.3)


def _numbers(report: Report) -> str:
    rows = {
        "calls": f"{report.calls}",
        "checked": f"{report.checked}",
        "errors": f"{sum(each['count'] for each in report.errors.values())}",
        "calls/s": f"{report.calls_per_second:.1f}",
        "rows/s": f"{report.rows_per_second:.4g}",
        "GB/s": f"{report.gigabytes_per_second:.3g}",
        **{f"{name} ms": f"{value:.3g}" for name, value in report.latency_ms.items()},
    }
    return "\n".join(f"{name:<9}{value:>11}" for name, value in rows.items())
