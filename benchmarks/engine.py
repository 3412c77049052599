"""The engine and the service beside their ceiling, a copy of the same bytes.

Each row is checked against long double first, then measured in turns with its neighbours in one
run; figures are medians. `--tiles` tries other tile sizes instead, `--json FILE` keeps the numbers.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

import losswire
from losswire_proto.losses import LossCall
from losswire_server import LocalServer
from losswire_server.engine import tiles
from losswire_server.engine.numpy_engine import NumpyEngine
from losswire_server.requests import LossRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SHAPES = ((64, 1_000), (8_192, 1_000), (65_536, 10), (512, 32_000), (64, 128_256))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tiles", action="store_true", help="compare tile sizes")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    measure = tile_sizes if arguments.tiles else ceilings
    rows = measure(arguments.rounds)
    about = {
        "numpy": np.__version__,
        "losswire": losswire.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "command": "python benchmarks/engine.py " + " ".join(sys.argv[1:]),
    }
    _print(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps({"about": about, "rows": rows}, indent=2) + "\n")


def ceilings(rounds: int) -> list[dict[str, object]]:
    """Copying the logits, the engine in process, and a call over loopback TCP, in ms."""
    engine, rows = NumpyEngine(), []
    with LocalServer(engine="numpy") as server, losswire.Client(server.target) as client:
        for shape in track(SHAPES, "measuring", transient=True):
            logits, ids = _problem(shape)
            request = LossRequest(LossCall(grad_logits=True), logits, 1, ids, "ids")
            target = np.empty_like(logits)
            _check(logits, ids, engine.compute([request])[0])
            _check(logits, ids, client.softmax_cross_entropy(logits, ids))
            copy, compute, call = _medians_ms(
                rounds,
                lambda t=target, z=logits: np.copyto(t, z),
                lambda r=request: engine.compute([r]),
                lambda z=logits, y=ids: client.softmax_cross_entropy(z, y),
            )
            rows.append(
                {
                    "shape": f"{shape[0]}x{shape[1]}",
                    "copy ms": copy,
                    "engine ms": compute,
                    "copy / engine": copy / compute,
                    "call ms": call,
                    "engine / call": compute / call,
                }
            )
    engine.close()
    return rows


def tile_sizes(rounds: int) -> list[dict[str, object]]:
    """The engine in process with several tile sizes, in ms."""
    engine, rows = NumpyEngine(), []
    sizes = [1 << bits for bits in range(13, 20)]

    def compute(request: LossRequest, size: int) -> None:
        tiles.TILE_ELEMENTS = size  # type: ignore[misc]  # the point of the exercise
        engine.compute([request])

    for shape in track(SHAPES, "measuring", transient=True):
        logits, ids = _problem(shape)
        request = LossRequest(LossCall(grad_logits=True), logits, 1, ids, "ids")
        calls = [lambda r=request, s=size: compute(r, s) for size in sizes]
        medians = _medians_ms(rounds, *calls)
        names = [f"{size >> 10}k" for size in sizes]
        rows.append({"shape": f"{shape[0]}x{shape[1]}", **dict(zip(names, medians, strict=True))})
    engine.close()
    return rows


def _problem(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.normal(size=shape).astype(np.float32), random.integers(0, shape[1], shape[0])


def _check(logits: np.ndarray, ids: np.ndarray, result: object) -> None:
    """Refuses to measure what is wrong; a few rows stand for all."""
    rows = np.arange(0, len(logits), max(1, len(logits) // 16))
    z = logits[rows].astype(np.longdouble)
    exp = np.exp(z - z.max(axis=1, keepdims=True))
    p = exp / exp.sum(axis=1, keepdims=True)
    picked = np.arange(len(rows)), ids[rows]
    np.testing.assert_allclose(result.per_example[rows], -np.log(p[picked]), rtol=1e-6)
    p[picked] -= 1
    np.testing.assert_allclose(result.grad_logits[rows], p, rtol=2e-6, atol=1e-12)


def _medians_ms(rounds: int, *calls: Callable[[], object]) -> list[float]:
    times: list[list[float]] = [[] for _ in calls]
    for warm_up in (True, False):
        for _ in range(3 if warm_up else rounds):
            for call, spent in zip(calls, times, strict=True):
                start = time.perf_counter()
                call()
                if not warm_up:
                    spent.append(time.perf_counter() - start)
    return [1e3 * statistics.median(spent) for spent in times]


def _print(rows: Sequence[dict[str, object]]) -> None:
    table = Table()
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
