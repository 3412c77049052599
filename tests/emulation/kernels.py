"""Requests computed by the kernels for the GPU, played on the processor.

In: a validated request, and optionally others of its batch. Out: what the kernels wrote, before it
is cut up into replies. No pipeline: arguments point to NumPy's own memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from emulation.emulator import DEVICE, EmulatedKernel, compile_kernel
from emulation.guarded import GuardedMemory
from losswire_proto import dtypes
from losswire_server.engine import launches
from losswire_server.engine.launches import Kernel
from losswire_server.engine.tilings import Traits
from losswire_server.engine.weighting import weigh
from losswire_server.requests import LossRequest
from losswire_server.rows import LabelTable

HOPPER = Traits((9, 0), multiprocessors=132)
TURING = Traits((7, 5), multiprocessors=40)


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


class _Memory:
    """Arguments that point to arrays, which live as long as this."""

    def __init__(self) -> None:
        self.arguments = np.zeros((), launches.ARGUMENTS)
        self._held: list[np.ndarray | GuardedMemory] = []

    def put(self, **arrays: np.ndarray) -> None:
        """Points the arguments of these names to the arrays, which must be contiguous."""
        for name, array in arrays.items():
            assert array.flags.c_contiguous
            self._held.append(array)
            self.arguments[name] = array.ctypes.data

    def put_guarded(self, **arrays: np.ndarray) -> None:
        """The same of what is only read: nobody reads beyond it, but for what 16 bytes fill."""
        for name, array in arrays.items():
            assert array.flags.c_contiguous
            memory = GuardedMemory(array, name, alignment=16, writable=False)
            self._held.append(memory)
            self.arguments[name] = memory.address


def compute(
    request: LossRequest, traits=HOPPER, order="forward", ids=None, *, is_in_place=False
) -> Written:
    """Launches what is planned for one request.

    Args:
        ids: in the place of its own, which may be anything.
        is_in_place: gradients are written where the logits are.
    """
    logits, loss, rows = np.ascontiguousarray(request.logits), request.call.loss, request.rows
    real = dtypes.compute_dtype(logits.dtype)
    inner = 1
    if not loss.is_elementwise:
        inner = int(np.prod(request.example_shape[request.axis :], dtype=np.int64))
    memory = _Memory()
    dense, per_example = np.full_like(logits, 99), np.full(rows, 99, real)
    extras = {name: np.full(rows, 99, real) for name in ("logsumexp", "entropy")}
    extras["argmax"] = np.full(rows, -99)
    fault = np.array([launches.NO_FAULT], np.uint64)
    if is_in_place:
        dense[...] = logits
        memory.put(logits=dense)
    else:
        memory.put_guarded(logits=logits)
    memory.put(dense=dense, fault=fault)
    memory.put(segments=np.array([(0, 0, inner)], launches.SEGMENT))
    memory.put(**{name: extras[name] for name in getattr(loss, "extras", ())})
    if request.reading != "none":
        memory.put(per_example=per_example)
    _put_weights(memory, request, real)
    grad_labels = _put_labels(memory, request, real, ids)
    memory.arguments["segment_count"], memory.arguments["rows"] = 1, rows
    memory.arguments["classes"] = request.classes
    for name, value in launches.options(request).items():
        memory.arguments[name] = value
    launch = launches.plan(request, rows, traits, is_strided=inner > 1)
    compiled(launch.kernel).launch(
        launch.grid, launch.block, launch.shared_bytes, memory.arguments[()], launch.cluster, order
    )
    return Written(per_example, dense, grad_labels, **extras, fault=int(fault[0]))


def _put_weights(memory: _Memory, request: LossRequest, real: np.dtype) -> None:
    weighting = weigh(request)
    flags = np.zeros(request.rows, np.uint8)
    for mask, bit in ((weighting.no_loss, launches.NO_LOSS), (weighting.no_grad, 2)):
        if mask is not None:
            flags |= np.where(mask, bit, 0).astype(np.uint8)
    weight, scale = weighting.weight.copy(), weighting.scale.copy()
    memory.put_guarded(flags=flags, weight=weight, scale=scale)
    if request.class_weight is not None:
        memory.put_guarded(class_weight=request.class_weight.astype(real))
    if request.pos_weight is not None:
        weights = np.broadcast_to(request.pos_weight, request.logits.shape)
        memory.put_guarded(pos_weight=np.ascontiguousarray(weights, real))


def _put_labels(
    memory: _Memory, request: LossRequest, real: np.dtype, ids: np.ndarray | None
) -> np.ndarray | None:
    """Puts the labels; returns where the gradient to them goes, if they are distributions."""
    if request.labels is None:
        return None
    if request.reading == "ids":
        own = weigh(request).ids
        memory.put_guarded(ids=(own if ids is None else np.asarray(ids)).astype(np.int32))
        return None
    labels = np.ascontiguousarray(request.labels)
    grad_labels = np.full_like(labels, 99)
    if request.is_broadcast:
        table = LabelTable.of(request.labels, request.logits.shape, request.axis)
        labels, grad_labels = (
            np.ascontiguousarray(table.table),
            np.full((request.rows, request.classes), 99, real),
        )
        memory.put_guarded(ids=table.index.astype(np.int32))
    memory.put_guarded(labels=labels)
    memory.put(grad_labels=grad_labels)
    return grad_labels


def largest_difference(actual: np.ndarray, expected: Sequence[float] | np.ndarray) -> float:
    """The largest difference relative to the larger of 1 and the expected number.

    Infinite where NaN or an infinity stands on one side only.
    """
    a, b = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.abs(a - b) / np.maximum(1.0, np.abs(b)))
    return float(np.max(np.where(np.isnan(apart), np.inf, apart), initial=0.0))
