"""The engine and the service beside their ceiling, a copy of the same bytes.

Figures are medians, measured in turns in one run; the plain loss is checked against long double
first. Then the plain loss beside a kernel that has no options, each loss and each option at
8192 x 1000 beside the plain loss, and what the client's two warnings cost a call of 1 MB. Freed
memory is kept, as servers keep it: beyond 32 MiB malloc would map each result afresh, which costs
more than computing it. `--tiles` tries other tile sizes instead, `--json FILE` keeps the numbers.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

import losswire
from benchmarks import by_hand, machine
from losswire._advice import Advice
from losswire_proto import losses
from losswire_proto.losses import LossCall
from losswire_server import LocalServer, memory
from losswire_server.engine import tiles
from losswire_server.engine.kernels import KERNELS
from losswire_server.engine.numpy_engine import NumpyEngine
from losswire_server.requests import LossRequest, LossResult

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from losswire_proto.options import Reading
    from losswire_server.engine.operands import Kernel

SHAPES = ((64, 1_000), (8_192, 1_000), (65_536, 10), (512, 32_000), (64, 128_256))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--tiles", action="store_true", help="compare tile sizes")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    memory.keep_freed_memory()
    measures = [tile_sizes] if arguments.tiles else [ceilings, options_off, each_loss, advice]
    tables = {measure.__name__: measure(arguments.rounds) for measure in measures}
    about = {
        "command": "python -m benchmarks.engine " + " ".join(sys.argv[1:]),
        **machine.described(("losswire", "numpy")),
    }
    for rows in tables.values():
        _print(rows)
    if arguments.json:
        arguments.json.write_text(json.dumps({"about": about, **tables}, indent=2) + "\n")


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


def each_loss(rounds: int) -> list[dict[str, object]]:
    """Every loss, and every option of softmax cross-entropy, in ms and beside the plain loss."""
    logits, ids = _problem((8_192, 1_000))
    soft = np.random.default_rng(1).random(logits.shape, dtype=np.float32)
    soft /= soft.sum(axis=1, keepdims=True)
    weights = np.ones(1_000, np.float32)
    plain = losses.SoftmaxCrossEntropy
    cases: dict[str, tuple[losses.Loss, np.ndarray | None, Reading, dict[str, np.ndarray]]] = {
        "softmax_cross_entropy, ids": (plain(), ids, "ids", {}),
        "… class_weight": (plain(), ids, "ids", {"class_weight": weights}),
        "… label_smoothing": (plain(label_smoothing=0.1), ids, "ids", {}),
        "… z_loss": (plain(z_loss=1e-4), ids, "ids", {}),
        "… softcap": (plain(softcap=30.0), ids, "ids", {}),
        "… temperature": (plain(temperature=2.0), ids, "ids", {}),
        "… entropy": (plain(extras=("entropy",)), ids, "ids", {}),
        "softmax_cross_entropy, distributions": (plain(), soft, "distribution", {}),
        "sigmoid_cross_entropy": (losses.SigmoidCrossEntropy(), soft, "elements", {}),
        "categorical_cross_entropy": (losses.CategoricalCrossEntropy(), ids, "ids", {}),
        "binary_cross_entropy": (losses.BinaryCrossEntropy(), soft, "elements", {}),
        "kl_divergence": (losses.KlDivergence(), soft, "distribution", {}),
        "focal, ids": (losses.Focal(), ids, "ids", {}),
        "focal, sigmoid": (losses.Focal(form="sigmoid"), soft, "elements", {}),
        "softmax": (losses.Softmax(), None, "none", {}),
        "log_softmax": (losses.LogSoftmax(), None, "none", {}),
    }
    engine = NumpyEngine()
    calls = []
    for loss, labels, reading, tensors in cases.values():
        inputs = soft if loss.input_name == "probabilities" else logits
        call = LossCall(loss, grad_logits=reading != "none")
        request = LossRequest(call, inputs, 1, labels, reading, **tensors)
        calls.append(lambda r=request: engine.compute([r]))
    medians = _medians_ms(rounds, *calls)
    engine.close()
    return [
        {"loss at 8192x1000": name, "ms": ms, "beside the first": ms / medians[0]}
        for name, ms in zip(cases, medians, strict=True)
    ]


def options_off(rounds: int) -> list[dict[str, object]]:
    """The engine, no option on, with its own kernel and with one that has none; one thread, ms."""
    engine, rows = NumpyEngine(threads=1), []

    def compute(request: LossRequest, kernel: Kernel) -> LossResult:
        with mock.patch.dict(KERNELS, softmax_cross_entropy=kernel):
            return engine.compute([request])[0]

    kernels = by_hand.plain_loss, KERNELS["softmax_cross_entropy"]
    for shape in ((8_192, 1_000), (512, 32_000)):
        logits, ids = _problem(shape)
        request = LossRequest(LossCall(grad_logits=True), logits, 1, ids, "ids")
        for kernel in kernels:
            _check(logits, ids, compute(request, kernel))
        calls = [lambda r=request, k=kernel: compute(r, k) for kernel in kernels]
        bare, own = _medians_ms(5 * rounds, *calls)  # the difference is small
        names = "options off", "without options ms", "engine ms", "beside it"
        row = f"{shape[0]}x{shape[1]}", bare, own, own / bare
        rows.append(dict(zip(names, row, strict=True)))
    engine.close()
    return rows


def advice(rounds: int) -> list[dict[str, object]]:
    """A call of 1 MB on the same host, and looking whether to warn of its tensors, in µs."""
    logits, ids = _problem((256, 1_000))
    soft = np.full(logits.shape, 1e-3, np.float32)
    call, rows = LossCall(grad_logits=True), []
    with LocalServer(engine="numpy") as server, losswire.Client(server.target) as client:
        for name, labels in {"ids": ids, "distributions": soft}.items():
            asked, looked = _medians_ms(
                20 * rounds,
                lambda y=labels: client.softmax_cross_entropy(logits, y),
                lambda y=labels: Advice().consider(call, 1, logits, y),
            )
            rows.append(
                {
                    "warnings at 256x1000": name,
                    "call µs": 1e3 * asked,
                    "looking µs": 1e3 * looked,
                    "of the call": looked / asked,
                }
            )
    return rows


def tile_sizes(rounds: int) -> list[dict[str, object]]:
    """The engine in process with several tile sizes, in ms."""
    engine, rows = NumpyEngine(), []
    sizes = [1 << bits for bits in range(13, 22)]

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
