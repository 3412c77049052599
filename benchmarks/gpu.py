"""What the GPU engine does with a GPU, each figure beside its ceiling: `make gpu-bench`.

In: a machine with a GPU. Out: tables, and `benchmarks/results/gpu.json` with every turn, the
device, driver, versions and commit. Kernels stand beside a copy within the device, PyTorch,
Liger-Kernel and QuACK; calls beside the pinned copies that they cannot do without. Answers are
checked first.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import ml_dtypes
import numpy as np
from rich.console import Console

from benchmarks import gpu_contenders as on_gpu
from benchmarks import machine
from benchmarks.rows import Row, Table, Target
from benchmarks.turns import Contender, in_turns, seconds
from losswire.bench.problem import Problem
from losswire_proto.losses import LossCall
from losswire_server.engine.cupy_engine import CupyDevice, find_gpus
from losswire_server.engine.gpu_engine import GpuEngine
from losswire_server.engine.pipeline import CHUNK_BYTES
from losswire_server.engine.tilings import FEW_CLASSES, HELD_BYTES, TILINGS
from losswire_server.requests import LossRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.turns import Turn

_CLASSES: Final = (10, 256, 1_000, 4_096, 32_000, 128_256, 262_144)
_DISTRIBUTION_CLASSES: Final = (1_000, 32_000)
"""With distributions."""

_DTYPES: Final = ("bfloat16", "float32")
_SMALL: Final = (64, 8, 1_000)
"""Requests, rows and classes of each."""

_PACKAGES: Final = (
    "losswire", "numpy", "cupy-cuda13x", "cupy-cuda12x", "torch", "triton", "liger-kernel",
    "quack-kernels",
)  # fmt: skip

TO_COPY: Final = {10: 0.80, 256: 0.80, 1_000: 0.92}
"""Of a copy's speed, by classes; 0.97 for more."""

TO_COPY_DISTRIBUTIONS: Final = 0.90
CALL_TO_COPIES: Final = Target("<=", 1 / 0.80)
TOGETHER_TO_ALONE: Final = Target("<=", 1 / 5)
TO_CHOSEN: Final = Target(">=", 1.0)
"""Another tiling, beside the one that is chosen; else a threshold is to be moved."""

RIVALS: Final = {"PyTorch, eager": 3.0, "Liger-Kernel": 1.3, "QuACK": 1.0}
"""How many times as fast as these."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures, prints, writes; returns the exit status."""
    asked = _parser().parse_args(arguments)
    count, found = find_gpus()
    if not count:
        print(f"gpu-bench: nothing to measure on: {found}", file=sys.stderr)
        return 2
    console = Console(width=None if sys.stdout.isatty() else 160)
    tables: list[Table] = []
    for table in measured(asked.megabytes, asked.rounds):
        tables.append(table)
        console.print(table.rendered())
        console.print()
        figures = {"about": about(), "tables": [each.as_json() for each in tables]}
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 1 if any(table.has_wrong for table in tables) else 0


def measured(megabytes: int, rounds: int) -> Any:
    """The tables, one after another."""
    import cupy  # noqa: PLC0415 -- where there is a GPU

    device = CupyDevice(0)
    device.attach()
    for dtype in _DTYPES:
        for classes in _CLASSES:
            yield kernels(cupy, device, _problem(dtype, classes, megabytes), rounds)
    for dtype in _DTYPES:
        for classes in _DISTRIBUTION_CLASSES:
            problem = _problem(dtype, classes, megabytes, has_ids=False)
            yield kernels(cupy, device, problem, rounds)
    for dtype in _DTYPES:
        for classes in around_thresholds():
            yield tilings(cupy, device, _problem(dtype, classes, megabytes), rounds)
    yield call(cupy, megabytes, rounds)
    yield chunks(megabytes, rounds)
    yield small_requests(rounds)


def kernels(cupy: Any, device: CupyDevice, problem: Problem, rounds: int) -> Table:
    """One shape: the kernel beside a copy and beside others."""
    data = on_gpu.OnDevice.put(cupy, problem)
    contenders = [
        on_gpu.copy(data),
        on_gpu.kernel(data, device),
        on_gpu.torch_eager(data),
        on_gpu.torch_compiled(data),
        on_gpu.liger(data),
        on_gpu.quack(data),
    ]
    turns = in_turns(contenders, rounds)
    copied, own = turns["copy within the device"].median, turns["losswire"].median
    classes = problem.logits.shape[1]
    share, more = TO_COPY.get(classes, 0.97), 1.0
    if not data.has_ids:
        # A copy moves the logits twice; labels are read besides.
        share, more = TO_COPY_DISTRIBUTIONS, 1.5
    labels = "ids" if data.has_ids else "distributions"
    moved = int(2 * problem.logits.nbytes * more)
    table = Table(f"{data.dtype}, {problem.logits.shape[0]} x {classes}, {labels}")
    for name, turn in turns.items():
        row = Row(name, turn, moved_bytes=moved)
        if name == "losswire" and copied is not None:
            ceiling = copied * more
            row = Row(name, turn, "s", "copy", ceiling, Target("<=", 1 / share), moved)
        elif name in RIVALS and own is not None:
            row = Row(name, turn, "s", "losswire", own, Target(">=", RIVALS[name]), moved)
        table.rows.append(row)
    return table


def around_thresholds() -> list[int]:
    """Classes at every threshold that a dtype may have, half as many, and half as many again."""
    groups = [tiling.group for tiling in TILINGS]
    most = [FEW_CLASSES, *(group * HELD_BYTES // 4 for group in groups)]
    return sorted({size for each in most for size in (each // 2, each, each * 3 // 2)})


def tilings(cupy: Any, device: CupyDevice, problem: Problem, rounds: int) -> Table:
    """One shape by every tiling that could compute it, beside a copy and the one that does."""
    data = on_gpu.OnDevice.put(cupy, problem)
    candidates = on_gpu.tilings(data, device)
    turns = in_turns([on_gpu.copy(data), *candidates], rounds)
    chosen = turns[candidates[0].name].median
    table = Table(f"Tilings of {data.dtype}, {problem.logits.shape[0]} x {data.request.classes}")
    moved = 2 * problem.logits.nbytes
    for name, turn in turns.items():
        is_other = name not in {"copy within the device", candidates[0].name}
        target = TO_CHOSEN if is_other else None
        table.rows.append(Row(name, turn, "s", "the one chosen", chosen, target, moved))
    return table


def chunks(megabytes: int, rounds: int) -> Table:
    """A call by engines whose chunks are smaller and larger than is usual."""
    problem = _problem("float32", 1_000, megabytes)
    logits, ids = problem.arguments
    request = LossRequest(LossCall(grad_logits=True), logits, 1, ids, "ids")
    with ExitStack() as stack:

        def contender(nbytes: int) -> Contender:
            engine = GpuEngine([CupyDevice(0)], None, print, chunk_bytes=nbytes)
            stack.callback(engine.close)

            def prepare() -> Turn:
                problem.check(engine.compute([request])[0])
                return seconds(lambda: engine.compute([request]))

            return Contender(f"chunks of {nbytes >> 20} MiB", prepare)

        sizes = [CHUNK_BYTES * 4**power // 16 for power in range(5)]
        turns = in_turns([contender(nbytes) for nbytes in sizes], rounds)
    usual = turns[f"chunks of {CHUNK_BYTES >> 20} MiB"].median
    return Table(
        f"A call of {logits.nbytes >> 20} MiB in chunks",
        [
            Row(name, turn, "s", "the usual", usual, moved_bytes=2 * logits.nbytes)
            for name, turn in turns.items()
        ],
    )


def call(cupy: Any, megabytes: int, rounds: int) -> Table:
    """The engine on arrays in registered memory, beside the copies in and out, overlapped."""
    logits, ids = _problem("float32", 1_000, megabytes).arguments
    with ExitStack() as stack:
        engine = GpuEngine([CupyDevice(0)], None, print)
        stack.callback(engine.close)
        for array in (logits, grad := np.zeros_like(logits)):
            engine.register(array.ctypes.data, array.nbytes)
            stack.callback(engine.unregister, array.ctypes.data)
        request = LossRequest(
            LossCall(grad_logits=True), logits, 1, ids, "ids", destinations={"grad_logits": grad}
        )

        def prepare_engine() -> Turn:
            result = engine.compute([request])[0]
            Problem.of("softmax_cross_entropy", (logits, ids)).check(result)
            return seconds(lambda: engine.compute([request]))

        copies = Contender("pinned copies in and out", lambda: both_ways(cupy, logits.nbytes))
        turns = in_turns([copies, Contender("engine", prepare_engine)], rounds)
    ceiling = turns["pinned copies in and out"].median
    moved = 2 * logits.nbytes
    return Table(
        f"A call of {logits.nbytes >> 20} MiB in registered memory",
        [
            Row("pinned copies in and out", turns["pinned copies in and out"], moved_bytes=moved),
            Row("engine", turns["engine"], "s", "copies", ceiling, CALL_TO_COPIES, moved),
        ],
    )


def both_ways(cupy: Any, nbytes: int) -> Turn:
    """Copies of so many bytes in both directions at once, on streams of their own."""
    up, down = cupy.cuda.Stream(non_blocking=True), cupy.cuda.Stream(non_blocking=True)
    source, target = (cupy.cuda.alloc_pinned_memory(nbytes) for _ in range(2))
    incoming, outgoing = (cupy.cuda.alloc(nbytes) for _ in range(2))

    def run() -> None:
        incoming.copy_from_host_async(source.ptr, nbytes, up)
        outgoing.copy_to_host_async(target.ptr, nbytes, down)
        up.synchronize()
        down.synchronize()

    return seconds(run)


def small_requests(rounds: int) -> Table:
    """Many small requests as one batch, beside a launch for each."""
    count, rows, classes = _SMALL
    problems = [
        Problem.make("softmax_cross_entropy", (rows, classes), "float32", seed)
        for seed in range(count)
    ]
    requests = [
        LossRequest(LossCall(grad_logits=True), each.logits, 1, each.arguments[1], "ids")
        for each in problems
    ]
    engine = GpuEngine([CupyDevice(0)], None, print)

    def prepare_batch() -> Turn:
        for problem, result in zip(problems, engine.compute(requests), strict=True):
            problem.check(result)
        return seconds(lambda: engine.compute(requests))

    def prepare_alone() -> Turn:
        return seconds(lambda: [engine.compute([each]) for each in requests])

    turns = in_turns(
        [Contender("one by one", prepare_alone), Contender("as a batch", prepare_batch)], rounds
    )
    engine.close()
    alone = turns["one by one"].median
    return Table(
        f"{count} requests of {rows} x {classes}",
        [
            Row("one by one", turns["one by one"]),
            Row("as a batch", turns["as a batch"], "s", "one by one", alone, TOGETHER_TO_ALONE),
        ],
    )


def _problem(dtype: str, classes: int, megabytes: int, *, has_ids: bool = True) -> Problem:
    """Random logits of about so many megabytes, with ids or distributions."""
    kind = np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    rows = max(1, (megabytes << 20) // (classes * kind.itemsize))
    random = np.random.default_rng(0)
    block = random.standard_normal((min(rows, 4_096), classes), np.float32) * 3
    logits = np.resize(block.astype(kind), (rows, classes))
    if has_ids:
        return Problem.of("softmax_cross_entropy", (logits, random.integers(0, classes, rows)))
    weights = np.abs(block) + np.float32(0.1)
    weights /= weights.sum(axis=1, keepdims=True)
    labels = np.resize(weights.astype(kind), (rows, classes))
    return Problem.of("softmax_cross_entropy", (logits, labels))


def about() -> dict[str, Any]:
    """What the figures were taken with."""
    return {
        "command": "python -m benchmarks.gpu " + " ".join(sys.argv[1:]),
        "devices": _devices(),
        **machine.described(_PACKAGES),
    }


def _devices() -> str:
    """Names and drivers of the GPUs, a line each."""
    try:
        ran = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],  # noqa: S607
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:
        return "unknown"
    return ran.stdout.strip() or "unknown"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    default = Path(__file__).parent / "results" / "gpu.json"
    parser.add_argument("--json", type=Path, default=default, help="where the figures go")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each contender")
    parser.add_argument("--megabytes", type=int, default=512, help="of logits")
    return parser


if __name__ == "__main__":
    sys.exit(main())
