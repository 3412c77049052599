"""`make soak`, or `python -m benchmarks.soak` from the repository's root.

Runs mixed traffic under faults, an overload, and a soak; the figures go to a JSON file. The exit
status is 1 where a promise of docs/reliability.md was broken.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import machine
from benchmarks.loop import Loop
from benchmarks.soak import endurance, overload, promises

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Part = Callable[[Callable[[int], object]], dict[str, Any]]

_RESULTS: Final = Path("benchmarks/results/soak.json")
_SOME_RESULTS: Final = Path("build/soak.json")
"""Of a run that leaves parts out."""

_PARTS: Final = ("faults", "overload", "soak")
_PACKAGES: Final = ("losswire", "numpy", "grpcio", "protobuf")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the parts, prints, writes; returns the exit status."""
    asked = _parser().parse_args(arguments)
    console = Console(width=None if sys.stdout.isatty() else 120)
    begin = time.monotonic()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[calls]} calls"),
        TimeElapsedColumn(),
    )
    with Loop() as loop, Progress(*columns, console=console) as progress:
        figures = {name: _shown(progress, name, part) for name, part in _parts(loop, asked).items()}
    nested = {name: figures.pop(name) for name in list(figures) if name in _SCENARIOS}
    if nested:
        figures["overload"] = nested
    figures = {"about": _about(asked, time.monotonic() - begin), **figures}
    figures["broken"] = promises.broken(figures)
    path = asked.json or (_RESULTS if set(asked.only) == set(_PARTS) else _SOME_RESULTS)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    console.print(f"figures  {path}", soft_wrap=True)
    for line in figures["broken"]:
        console.print(f"broken   {line}", style="red", soft_wrap=True, markup=False)
    return 1 if figures["broken"] else 0


_SCENARIOS: Final = {scenario.name: scenario for scenario in overload.SCENARIOS}


def _parts(loop: Loop, asked: argparse.Namespace) -> dict[str, Part]:
    """What is to be run, by name."""
    seconds, seed = asked.seconds, asked.seed
    parts: dict[str, Part] = {}
    if "faults" in asked.only:
        parts["faults"] = lambda watch: endurance.faults(loop, seconds, watch, seed)
    if "overload" in asked.only:
        for name, scenario in _SCENARIOS.items():
            parts[name] = partial(overload.run, scenario, seconds)
    if "soak" in asked.only:
        parts["soak"] = lambda watch: endurance.soak(loop, seconds, watch, seed + 1000)
    return parts


def _shown(progress: Progress, name: str, part: Part) -> dict[str, Any]:
    task = progress.add_task(name, total=None, calls=0)
    figures = part(lambda calls: progress.update(task, calls=calls))
    progress.update(task, total=1.0, completed=1.0)
    progress.stop_task(task)
    return figures


def _about(asked: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """What was run, where."""
    return {
        "command": "python -m benchmarks.soak " + " ".join(sys.argv[1:]),
        "seconds_each": asked.seconds,
        "seconds": seconds,
        "seed": asked.seed,
        **machine.described(_PACKAGES),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=300.0, help="of each part; there are 4")
    parser.add_argument("--seed", type=int, default=1, help="of faults, traffic and kills")
    parser.add_argument(
        "--only", nargs="+", choices=_PARTS, default=_PARTS, help="some of the parts"
    )
    parser.add_argument("--json", type=Path, help=f"for the figures, not {_RESULTS}")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
