"""The picture of a comparison: every ratio as a bar, one panel for each table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from benchmarks.rows import Row, Table

    Panel = tuple[Table, list[Row]]

_COLOURS = {"PASS": "tab:green", "miss": "tab:red", "": "tab:blue"}


def draw(path: Path, tables: Sequence[Table]) -> bool:
    """Writes the chart; False where there is nothing to draw."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 -- slow to import
    from matplotlib.figure import Figure  # noqa: PLC0415 -- the same

    panels = [(table, _drawn(table)) for table in tables if _drawn(table)]
    if not panels:
        return False
    columns = _columns(panels)
    longest = max(sum(_height(panel) for panel in column) for column in columns)
    figure = Figure(figsize=(11 * len(columns), 0.3 * longest + 1), layout="constrained")
    FigureCanvasAgg(figure)
    parts = figure.subfigures(1, len(columns), squeeze=False)[0]
    for part, column in zip(parts, columns, strict=True):
        heights = [_height(panel) for panel in column]
        axes = part.subplots(len(column), 1, height_ratios=heights, squeeze=False)[:, 0]
        for each, (table, rows) in zip(axes, column, strict=True):
            _panel(each, table.title, rows)
    figure.suptitle("Median of each row over that of what it stands beside")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    return True


def _height(panel: Panel) -> float:
    """Of a panel, in rows; its title and axis take some too."""
    return len(panel[1]) + 2.5


def _columns(panels: list[Panel]) -> list[list[Panel]]:
    """The panels in two columns of about the same height; a single panel in one."""
    half = sum(map(_height, panels)) / 2
    left: list[Panel] = []
    for panel in panels:
        if sum(map(_height, left)) >= half:
            break
        left.append(panel)
    right = panels[len(left) :]
    return [left, right] if right else [left]


def _drawn(table: Table) -> list[Row]:
    return [row for row in table.rows if row.ratio is not None]


def _panel(axes: Any, title: str, rows: Sequence[Row]) -> None:
    places = range(len(rows))
    ratios = [row.ratio or 0.0 for row in rows]
    colours = [_COLOURS[row.verdict] for row in rows]
    bars = axes.barh(places, ratios, color=colours, height=0.7)
    axes.bar_label(bars, [f"{ratio:.3g}" for ratio in ratios], padding=3, fontsize=8)
    labels = [f"{row.name} / {row.ceiling}" for row in rows]
    axes.set_yticks(places, labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda ratio, _position: f"{ratio:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_xlim(min(0.5, min(ratios) / 2), max(2.0, max(ratios) * 3))
    axes.axvline(1, color="black", linewidth=0.8)
    is_rate = rows[0].unit == "1/s"
    note = "calls a second, more is better" if is_rate else "less is better"
    axes.set_title(f"{title} ({note})", loc="left", fontsize=9)
