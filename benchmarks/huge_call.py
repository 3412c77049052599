"""A tensor beyond gRPC's and protobuf's limits, streamed: right to the bit, and in how much memory.

In: a size. Out: the server's peak memory above what it held idle, beside the tensor's size; and the
time of the call, beside the engine computing the same blocks. The gradient is held, bit for bit,
to the engine's own, block by block.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from benchmarks import contenders, targets
from benchmarks.processes import forget_peak, peak_bytes, resident_bytes
from benchmarks.rows import Row, Table
from benchmarks.turns import Absent, Measured
from losswire.bench.problem import Problem, WrongResult
from losswire_server import LocalServer
from losswire_server.engine.numpy_engine import NumpyEngine

if TYPE_CHECKING:
    import losswire
    from benchmarks.contenders import Setting
    from losswire._base import Transport
    from losswire_proto.dtypes import Array

_CLASSES: Final = 1_000
_BLOCK_ROWS: Final = 8_192


def huge(_setting: Setting, gigabytes: float = 5.0, transport: Transport = "stream") -> list[Table]:
    """One call of a tensor of so many times 10^9 bytes."""
    rows = max(1, int(gigabytes * 1e9) // (4 * _CLASSES))
    title = f"A tensor of {gigabytes:g} GB, transport {transport}"
    with ExitStack() as stack:
        server = stack.enter_context(LocalServer(engine="numpy"))
        try:
            client = contenders.connect(server.target, transport, stack)
            small = Problem.make("softmax_cross_entropy", (64, _CLASSES), "float32")
            contenders.check_first(small, client)
        except Absent as absence:
            return [Table(title, [Row("call", Measured(note=str(absence)))])]
        logits, ids = _tensor(rows)
        idle = resident_bytes(server.pid)
        forget_peak(server.pid)
        start = time.perf_counter()
        result = client.softmax_cross_entropy(logits, ids, timeout=3_600.0)
        elapsed = time.perf_counter() - start
        above_idle = peak_bytes(server.pid) - idle
    computing, wrong = _seconds_if_same(logits, ids, result)
    moved = 2 * logits.nbytes
    took = Measured((elapsed,)) if not wrong else Measured(note=wrong, is_wrong=True)
    return [
        Table(
            title,
            [
                Row("call", took, "s", "engine by blocks", computing, None, moved),
                Row(
                    "server's memory above idle",
                    Measured((float(above_idle),)),
                    "bytes",
                    "300 MB",
                    targets.HUGE_MEMORY,
                    targets.WITHIN,
                ),
            ],
        )
    ]


def _tensor(rows: int) -> tuple[Array, Array]:
    """Random blocks, each scaled otherwise: one that lands in another's place is found out."""
    random = np.random.default_rng(0)
    block = random.standard_normal((min(rows, _BLOCK_ROWS), _CLASSES), np.float32)
    logits = np.empty((rows, _CLASSES), np.float32)
    for start in range(0, rows, _BLOCK_ROWS):
        part = logits[start : start + _BLOCK_ROWS]
        np.multiply(block[: len(part)], np.float32(1 + start / rows), out=part)
    return logits, random.integers(0, _CLASSES, rows)


def _seconds_if_same(logits: Array, ids: Array, result: losswire.LossResult) -> tuple[float, str]:
    """What the engine takes for all blocks, and what is wrong with the result, if anything."""
    engine, spent = NumpyEngine(), 0.0
    problem = Problem.of("softmax_cross_entropy", (logits[:_BLOCK_ROWS], ids[:_BLOCK_ROWS]))
    try:
        for start in range(0, len(logits), _BLOCK_ROWS):
            rows = slice(start, start + _BLOCK_ROWS)
            request = contenders.engine_request(
                replace(problem, arguments=(logits[rows], ids[rows]))
            )
            begin = time.perf_counter()
            expected = engine.compute([request])[0]
            spent += time.perf_counter() - begin
            if not start:
                problem.check(expected)
            for name in ("per_example", "grad_logits"):
                found, right = getattr(result, name)[rows], getattr(expected, name)
                if found.tobytes() != right.tobytes():
                    return spent, f"wrong: {name} differs from row {start}"
    except WrongResult as error:
        return spent, f"wrong: {error}"
    finally:
        engine.close()
    return spent, ""
