"""The comparison: `make bench`, or `python -m benchmarks.compare` from the repository's root.

Everything is measured in one run, in turns, after a check of its answer, and printed beside its
ceiling. The figures go to a JSON file with every turn, and into a chart. Targets that are missed
are said and change nothing; the exit status is 1 only where an answer is wrong or a comparison
breaks.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console

from benchmarks import huge_call, machine, many_calls, picture, single_calls
from benchmarks.contenders import Setting
from benchmarks.loop import Loop
from losswire_server import memory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from benchmarks.rows import Table

    Comparison = Callable[[Setting], list[Table]]

COMPARISONS: Final[Mapping[str, Comparison]] = {
    "engine": single_calls.engine,
    "same-host": single_calls.same_host,
    "streamed": single_calls.streamed,
    "one-shot": single_calls.one_shot,
    "small-calls": many_calls.small_calls,
    "server-time": many_calls.server_time,
}

_PACKAGES: Final = (
    "losswire", "numpy", "grpcio", "torch", "jax", "tensorflow-cpu", "mosec", "aiohttp",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints, writes; returns the exit status."""
    asked = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    if asked.keep_memory:
        memory.keep_freed_memory()
    chosen = {name: COMPARISONS[name] for name in asked.only or COMPARISONS}
    if asked.huge_gb:
        chosen["huge"] = partial(huge_call.huge, gigabytes=asked.huge_gb)
    with Loop() as loop:
        setting = Setting(asked.rounds, loop)
        tables, broken = run(chosen, setting, console)
    figures = {
        "about": about(asked),
        "tables": {name: [table.as_json() for table in each] for name, each in tables.items()},
        "broken": broken,
    }
    asked.json.parent.mkdir(parents=True, exist_ok=True)
    asked.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    console.print(f"figures  {asked.json}")
    flat = [table for each in tables.values() for table in each]
    chart = asked.json.with_suffix(".png")
    if picture.draw(chart, flat):
        console.print(f"picture  {chart}")
    return 1 if broken or any(table.has_wrong for table in flat) else 0


def run(
    comparisons: Mapping[str, Comparison], setting: Setting, console: Console
) -> tuple[dict[str, list[Table]], dict[str, str]]:
    """Runs one comparison after another; one that breaks leaves the others.

    Returns:
        The tables of each, and what broke, by name.
    """
    tables: dict[str, list[Table]] = {}
    broken: dict[str, str] = {}
    for name, comparison in comparisons.items():
        try:
            with console.status(f"measuring {name}"):
                tables[name] = comparison(setting)
        except Exception as error:  # noqa: BLE001 -- the boundary: an hour's figures are at stake
            broken[name] = f"{type(error).__name__}: {error}"
            console.print(f"{name} broke:", style="red")
            console.print(traceback.format_exc(), markup=False, highlight=False)
        for table in tables.get(name, ()):
            console.print(table.rendered())
            console.print()
    return tables, broken


def about(asked: argparse.Namespace) -> dict[str, Any]:
    """The machine, the versions and the command, without which figures mean nothing."""
    return {
        "command": "python -m benchmarks.compare " + " ".join(sys.argv[1:]),
        "rounds": asked.rounds,
        "keep_memory": asked.keep_memory,
        **machine.described(_PACKAGES),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    default = Path(__file__).parent / "results" / "comparison.json"
    parser.add_argument("--rounds", type=int, default=15, help="turns of each contender")
    parser.add_argument(
        "--only", action="append", choices=COMPARISONS, help="one of these; may be repeated"
    )
    parser.add_argument("--json", type=Path, default=default, help="where the figures go")
    parser.add_argument(
        "--huge-gb", type=float, default=0.0, help="also stream a tensor of this size; 5 is long"
    )
    parser.add_argument(
        "--keep-memory",
        action="store_true",
        help="have malloc keep freed memory in the measuring process too, as in the servers",
    )
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
