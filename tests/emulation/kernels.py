"""Requests computed by the kernels for the GPU, played on the processor.

In: a validated request, and optionally others of its batch. Out: what the kernels wrote, before it
is cut up into replies. No pipeline: arguments point to NumPy's own memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from emulation.emulator import DEVICE, EmulatedKernel, compile_kernel
from losswire_proto import dtypes
from losswire_server.engine import launches
from losswire_server.engine.launches import Kernel, Traits
from losswire_server.engine.weighting import weigh
from losswire_server.requests import LossRequest
from losswire_server.rows import LabelTable

HOPPER = Traits((9, 0), 227 << 10)
TURING = Traits((7, 5), 64 << 10)


@dataclass(frozen=True, slots=True)
class Written:
    """What a launch wrote; rows of all requests, in their order.

    Attributes:
        fault: the first row whose id was out of range, or `launches.NO_FAULT`.
    """

    per_example: np.ndarray
    dense: np.ndarray
    grad_labels: np.ndarray | None
    logsumexp: np.ndarray
    argmax: np.ndarray
    entropy: np.ndarray
    fault: int


@lru_cache(None)
def compiled(kernel: Kernel) -> EmulatedKernel:
    """The kernel, compiled once."""
    return compile_kernel(DEVICE / kernel.source, dict(kernel.macros), kernel.entry)


def compute(  # noqa: PLR0912 -- one field after another
    request: LossRequest, traits=HOPPER, order="forward", ids=None
) -> Written:
    """Launches what is planned for one request.

    Args:
        ids: in the place of its own, which may be anything.
    """
    logits, loss = np.ascontiguousarray(request.logits), request.call.loss
    real = dtypes.compute_dtype(logits.dtype)
    rows = request.rows
    inner = 1
    if not loss.is_elementwise:
        inner = int(np.prod(request.example_shape[request.axis :], dtype=np.int64))
    weighting = weigh(request)
    dense = np.full_like(logits, 99)
    per_example = np.full(rows, 99, real)
    logsumexp, entropy = np.full(rows, 99, real), np.full(rows, 99, real)
    argmax = np.full(rows, -99)
    fault = np.array([launches.NO_FAULT], np.uint64)
    segments = np.array([(0, 0, inner)], launches.SEGMENT)
    flags = np.zeros(rows, np.uint8)
    for mask, bit in ((weighting.no_loss, 1), (weighting.no_grad, 2)):
        if mask is not None:
            flags |= np.where(mask, bit, 0).astype(np.uint8)
    arguments = np.zeros((), launches.ARGUMENTS)
    held = [logits, dense, per_example, logsumexp, entropy, argmax, fault, segments, flags]

    def put(name: str, array: np.ndarray) -> None:
        array = np.ascontiguousarray(array)
        held.append(array)
        arguments[name] = array.ctypes.data

    for name, array in (
        ("logits", logits),
        ("dense", dense),
        ("per_example", per_example),
        ("fault", fault),
        ("segments", segments),
        ("flags", flags),
        ("weight", weighting.weight),
        ("scale", weighting.scale),
    ):
        put(name, array)
    for name in getattr(loss, "extras", ()):
        put(name, {"logsumexp": logsumexp, "argmax": argmax, "entropy": entropy}[name])
    grad_labels = None
    if weighting.ids is not None:
        put("ids", (weighting.ids if ids is None else np.asarray(ids)).astype(np.int32))
    elif request.is_broadcast:
        table = LabelTable.of(request.labels, logits.shape, request.axis)
        put("labels", table.table)
        put("ids", table.index.astype(np.int32))
        grad_labels = np.full((rows, request.classes), 99, real)
    elif request.labels is not None:
        put("labels", request.labels)
        grad_labels = np.full_like(np.ascontiguousarray(request.labels), 99)
    if grad_labels is not None:
        put("grad_labels", grad_labels)
    if request.class_weight is not None:
        put("class_weight", request.class_weight.astype(real))
    if request.pos_weight is not None:
        put("pos_weight", np.broadcast_to(request.pos_weight, logits.shape).astype(real))
    if request.reading == "none":
        arguments["per_example"] = 0
    arguments["segment_count"], arguments["rows"] = 1, rows
    arguments["classes"] = request.classes
    for name, value in launches.options(request).items():
        arguments[name] = value
    launch = launches.plan(request, rows, traits, is_strided=inner > 1)
    compiled(launch.kernel).launch(
        launch.grid, launch.block, launch.shared_bytes, arguments[()], launch.cluster, order
    )
    return Written(per_example, dense, grad_labels, logsumexp, argmax, entropy, int(fault[0]))


def largest_difference(actual: np.ndarray, expected: Sequence[float] | np.ndarray) -> float:
    """The largest difference relative to the larger of 1 and the expected number.

    Infinite where NaN or an infinity stands on one side only.
    """
    a, b = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.abs(a - b) / np.maximum(1.0, np.abs(b)))
    return float(np.max(np.where(np.isnan(apart), np.inf, apart), initial=0.0))
