"""Rows and tables: each figure beside its ceiling, and whether it is where it should be.

In: what contenders measured. Out: a rich table for the eye and plain dictionaries for the JSON.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from rich.table import Table as RichTable

if TYPE_CHECKING:
    from benchmarks.turns import Measured


_COLUMNS: Final = ("", "median", "quartiles", "GB/s", "beside", "its median", "ratio", "wanted")


@dataclass(frozen=True, slots=True)
class Target:
    """Where the ratio of a row to its ceiling should be."""

    relation: Literal["<=", ">="]
    limit: float

    def is_met(self, ratio: float) -> bool:
        """Whether the ratio is there."""
        return ratio <= self.limit if self.relation == "<=" else ratio >= self.limit


@dataclass(frozen=True, slots=True)
class Row:
    """A figure, what it stands beside, and their ratio.

    Attributes:
        name: what was measured.
        measured: its turns.
        unit: of its values: "s", "1/s" or "bytes".
        ceiling: what the best possible, or the rival, is.
        ceiling_value: that in the same unit; None where it is not known.
        target: where the ratio should be; None for a row that only informs.
        moved_bytes: logits up and gradient down in a turn; None where that says nothing.
    """

    name: str
    measured: Measured
    unit: str = "s"
    ceiling: str = ""
    ceiling_value: float | None = None
    target: Target | None = None
    moved_bytes: int | None = None

    @property
    def gigabytes_per_second(self) -> float | None:
        """The bytes of a turn over the median, in units of 10^9 bytes."""
        if self.measured.median is None or self.moved_bytes is None:
            return None
        return self.moved_bytes / self.measured.median / 1e9

    @property
    def ratio(self) -> float | None:
        """The median over the ceiling."""
        median = self.measured.median
        if median is None or not self.ceiling_value:
            return None
        return median / self.ceiling_value

    @property
    def verdict(self) -> str:
        """PASS or miss; nothing where there is no target or no figure."""
        if self.target is None or self.ratio is None:
            return ""
        return "PASS" if self.target.is_met(self.ratio) else "miss"

    def as_json(self) -> dict[str, Any]:
        """All of it, with every turn."""
        target = self.target
        return {
            "name": self.name,
            "unit": self.unit,
            "median": self.measured.median,
            "quartiles": self.measured.quartiles,
            "gigabytes_per_second": self.gigabytes_per_second,
            "note": self.measured.note,
            "ceiling": self.ceiling,
            "ceiling_value": self.ceiling_value,
            "ratio": self.ratio,
            "target": None if target is None else f"{target.relation} {target.limit:g}",
            "verdict": self.verdict,
            "values": self.measured.values,
        }


@dataclass(slots=True)
class Table:
    """The rows of one comparison."""

    title: str
    rows: list[Row] = field(default_factory=list)

    @property
    def has_wrong(self) -> bool:
        """Whether somebody's answer was wrong."""
        return any(row.measured.is_wrong for row in self.rows)

    def as_json(self) -> dict[str, Any]:
        """Title and rows."""
        return {"title": self.title, "rows": [row.as_json() for row in self.rows]}

    def rendered(self) -> RichTable:
        """For the terminal."""
        table = RichTable(title=self.title, title_justify="left")
        cells = [_cells(row) for row in self.rows]
        kept = [index for index in range(len(_COLUMNS)) if any(each[index] for each in cells)]
        for index in kept:
            name = _COLUMNS[index]
            table.add_column(name, justify="left" if name in {"", "beside"} else "right")
        for each in cells:
            table.add_row(*(each[index] for index in kept))
        return table


def _cells(row: Row) -> tuple[str, ...]:
    """The row under `_COLUMNS`."""
    median, quartiles = row.measured.median, row.measured.quartiles
    if median is None or quartiles is None:
        return row.name, row.measured.note, "", "", row.ceiling, "", "", ""
    wanted = "" if row.target is None else f"{row.target.relation} {row.target.limit:g}"
    colour = {"PASS": "green", "miss": "red"}.get(row.verdict)
    verdict = f" [{colour}]{row.verdict}[/{colour}]" if colour else ""
    return (
        row.name,
        written(median, row.unit),
        " - ".join(written(each, row.unit) for each in quartiles),
        "" if row.gigabytes_per_second is None else f"{row.gigabytes_per_second:.3g}",
        row.ceiling,
        "" if row.ceiling_value is None else written(row.ceiling_value, row.unit),
        "" if row.ratio is None else f"{row.ratio:.2f}",
        wanted + verdict,
    )


def written(value: float, unit: str) -> str:
    """A value for the eye."""
    if unit == "s" and value >= 1:
        return f"{value:.3g} s"
    if unit == "s":
        return f"{value * 1e3:.3g} ms" if value >= 1e-4 else f"{value * 1e6:.3g} µs"
    if unit == "bytes":
        return f"{value / 2**20:.4g} MiB"
    return f"{value:,.0f}/s"
