"""Which kernel computes a batch, and in what geometry: one table, decided by classes and dtype.

In: what is common to the requests of a batch. Out: the source to compile, its macros, and the grid.
The number of rows sizes the grid and nothing else, so that a row's bits do not depend on its batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from losswire_proto import dtypes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from losswire_server.requests import LossRequest

SEGMENT: Final = np.dtype([("first_row", "<i8"), ("offset", "<i8"), ("inner", "<i8")])
"""`Segment` of cuda/arguments.cuh."""

_POINTERS: Final = (
    "logits dense labels grad_labels ids class_weight pos_weight weight scale flags per_example"
    " logsumexp argmax entropy fault segments"
)
_COUNTS: Final = "segment_count rows classes"
_NUMBERS: Final = (
    "weight_of_all scale_of_all label_smoothing z_loss softcap temperature gamma alpha epsilon"
    " factor"
)

ARGUMENTS: Final = np.dtype(
    [(name, "<u8") for name in _POINTERS.split()]
    + [(name, "<i8") for name in _COUNTS.split()]
    + [(name, "<f8") for name in _NUMBERS.split()]
)
"""`Arguments` of cuda/arguments.cuh; pointers are device addresses, 0 for null."""

NO_LOSS: Final = 1
NO_GRADIENT: Final = 2

NO_FAULT: Final = (1 << 64) - 1
"""What `fault` points to before a launch, and after one without a fault."""


FEW_CLASSES: Final = 64
"""Classes up to which a thread has a row for itself."""

TILINGS: Final = (
    ("WARP_PER_ROW", 128, 1),
    ("BLOCK_PER_ROW", 128, 1),
    ("BLOCK_PER_ROW", 256, 1),
    ("BLOCK_PER_ROW", 512, 1),
    ("BLOCK_PER_ROW", 512, 2),
    ("BLOCK_PER_ROW", 512, 4),
    ("BLOCK_PER_ROW", 512, 8),
)
"""Tilings, threads of a block and blocks of a cluster; the first that can hold a row in registers.

In float32 these reach to 2048, 8192, 16384, 32768, 65536, 131072 and 262144 classes, and half as
far with distributions, or in float64. Chosen by counting registers: none has been measured yet.
"""

HELD_BYTES: Final = 256
"""Of a row, or of a row and its labels, in the registers of one thread: 64 of them."""

SWEEP_THREADS: Final = 512
"""Of a block whose row is not held."""

SECTOR_BYTES: Final = 32
"""The least that is fetched of memory: so many bytes of neighbouring rows whose classes lie apart
belong to one block, a warp for each row."""

CLUSTER_CAPABILITY: Final = (9, 0)
"""From which blocks can read one another's shared memory."""

SHARED_BYTES: Final = 48 << 10
"""Of a block, on every device and without asking for more."""

_CROWDED_LOSSES: Final = frozenset({"focal", "categorical_cross_entropy"})
"""Powers, logarithms and divisions for each class, on the way to the gradient too."""

_WARP: Final = 32
_RUN_BYTES: Final = 16
_RUNS: Final = (1, 2, 3, 4, 6, 8, 12, 16)
_ELEMENT_THREADS: Final = 256
_FEW_THREADS: Final = (128, 64, 32)
_EXCHANGED_BYTES: Final = 64
"""Of a warp or a block in an exchange: `MOST_VALUES` of 8 bytes."""

_FORMATS: Final = {
    "float16": "Half",
    "bfloat16": "Bfloat16",
    "float32": "float",
    "float64": "double",
}

_LOSSES: Final = {
    "softmax_cross_entropy": '"cross_entropy.cuh"',
    "sequence_loss": '"cross_entropy.cuh"',
    "categorical_cross_entropy": '"probabilities.cuh"',
    "kl_divergence": '"divergence.cuh"',
    "focal": '"focal.cuh"',
    "softmax": '"normalized.cuh"',
    "log_softmax": '"normalized.cuh"',
    "sigmoid_cross_entropy": "SIGMOID",
    "binary_cross_entropy": "BINARY",
}


@dataclass(frozen=True, slots=True)
class Kernel:
    """What is compiled once and kept.

    Attributes:
        source: file in the folder `cuda`.
        entry: name of the `extern "C"` function.
        macros: names and values, sorted.
    """

    source: str
    entry: str
    macros: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel with its geometry.

    Attributes:
        grid: blocks; a multiple of `cluster`.
        block: threads of each.
        shared_bytes: dynamic shared memory of each block.
        cluster: blocks that share a row; 1 where none do.
    """

    kernel: Kernel
    grid: int
    block: int
    shared_bytes: int
    cluster: int = 1


@dataclass(frozen=True, slots=True)
class Traits:
    """What of a device decides about geometry.

    Attributes:
        capability: major and minor compute capability.
        shared_bytes: dynamic shared memory that one block may ask for.
    """

    capability: tuple[int, int]
    shared_bytes: int


def plan(request: LossRequest, rows: int, traits: Traits, *, is_strided: bool) -> Launch:
    """The launch for `rows` rows of requests like this one.

    Args:
        request: any of the batch.
        rows: of all of them.
        traits: of the device.
        is_strided: some rows' classes do not lie one after another.
    """
    if request.call.loss.is_elementwise:
        return _plan_elements(request, rows)
    return plan_as(next(tilings_of(request, traits)), request, rows, is_strided=is_strided)


def plan_as(tiling: Tiling, request: LossRequest, rows: int, *, is_strided: bool) -> Launch:
    """The same by one of `tilings_of` the request."""
    macros = _macros(request)
    macros["STRIDED"] = "1" if is_strided else "0"
    if tiling.name == "THREAD_PER_ROW":
        return _plan_few(request, rows, macros)
    if tiling.name == "WARP_PER_ROW" and is_strided:
        tiling = replace(tiling, threads=_WARP * SECTOR_BYTES // request.logits.dtype.itemsize)
    macros.update(
        TILING=tiling.name,
        THREADS=str(tiling.threads),
        RUNS=str(tiling.runs),
        CLUSTER=str(tiling.cluster),
        LOGIT_ALIGNMENT=str(_alignment(request.logits.dtype, request.classes)),
    )
    kernel = _kernel("rows.cu", "losswire_rows", macros)
    if tiling.name == "WARP_PER_ROW":
        shared = _tile_bytes(request, tiling.threads // _WARP) if is_strided else 0
        return Launch(kernel, _ceil(rows, tiling.threads // _WARP), tiling.threads, shared)
    shared = 2 * (tiling.threads // _WARP + tiling.cluster) * _EXCHANGED_BYTES
    return Launch(kernel, rows * tiling.cluster, tiling.threads, shared, tiling.cluster)


@dataclass(frozen=True, slots=True)
class Tiling:
    """Who computes a row.

    Attributes:
        name: of the macro in cuda/rows.cu; "THREAD_PER_ROW" is cuda/few.cu.
        threads: of a block.
        runs: 16 bytes of logits each, that a thread holds; 0 where the row is not held.
        cluster: blocks that share a row.
    """

    name: str
    threads: int
    runs: int
    cluster: int = 1


def tilings_of(request: LossRequest, traits: Traits) -> Iterator[Tiling]:
    """All tilings that could compute such rows on such a device; the first is the one that does."""
    if request.classes <= FEW_CLASSES:
        yield Tiling("THREAD_PER_ROW", _FEW_THREADS[0], 0)
    run = _RUN_BYTES // request.logits.dtype.itemsize
    held = HELD_BYTES // dtypes.compute_dtype(request.logits.dtype).itemsize
    if request.reading == "distribution":
        held //= 2  # a label beside each logit
    if _is_crowded(request):
        held //= 2
    for name, threads, cluster in TILINGS:
        is_able = cluster == 1 or traits.capability >= CLUSTER_CAPABILITY
        group = _WARP if name == "WARP_PER_ROW" else threads * cluster
        if is_able and request.classes <= group * held:
            needed = _ceil(request.classes, group * run)
            runs = next(count for count in _RUNS if count >= needed)
            yield Tiling(name, threads, runs, cluster)
    yield Tiling("TWO_READS", SWEEP_THREADS, 0)


def _is_crowded(request: LossRequest) -> bool:
    """Whether a loss or its options want so many registers that less of a row can be held."""
    loss, labels = request.call.loss, request.labels
    itemsize = dtypes.compute_dtype(request.logits.dtype).itemsize
    has_wide_labels = (
        request.reading == "distribution" and labels is not None and labels.itemsize > itemsize
    )
    return bool(
        loss.name in _CROWDED_LOSSES
        or has_wide_labels
        or getattr(loss, "softcap", None)
        or getattr(loss, "target_is_logits", False)  # two softmaxes
        or getattr(loss, "extras", ())
        or request.call.grad_labels
    )


def _plan_elements(request: LossRequest, rows: int) -> Launch:
    """A thread for as many elements as fill 16 bytes."""
    macros = _macros(request) | {"THREADS": str(_ELEMENT_THREADS)}
    run = _RUN_BYTES // request.logits.dtype.itemsize
    kernel = _kernel("elements.cu", "losswire_elements", macros)
    return Launch(kernel, _ceil(rows, _ELEMENT_THREADS * run), _ELEMENT_THREADS, 0)


def _plan_few(request: LossRequest, rows: int, macros: dict[str, str]) -> Launch:
    """A thread per row; as many threads as shared memory of every device has room for."""
    itemsize = dtypes.compute_dtype(request.logits.dtype).itemsize
    row = (request.classes | 1) * itemsize * (2 if request.reading == "distribution" else 1)
    threads = next(count for count in _FEW_THREADS if count * row <= SHARED_BYTES)
    kernel = _kernel("few.cu", "losswire_few", macros | {"THREADS": str(threads)})
    return Launch(kernel, _ceil(rows, threads), threads, threads * row)


def _tile_bytes(request: LossRequest, rows: int) -> int:
    """Shared memory of `Together` in cuda/tiles.cuh: a round of classes of each of these rows."""
    itemsize = dtypes.compute_dtype(request.logits.dtype).itemsize
    classes = _WARP * _RUN_BYTES // request.logits.dtype.itemsize
    nbytes: int = rows * (classes * itemsize + _RUN_BYTES)
    return nbytes


def _kernel(source: str, entry: str, macros: dict[str, str]) -> Kernel:
    return Kernel(source, entry, tuple(sorted(macros.items())))


def _ceil(count: int, each: int) -> int:
    return -(-count // each)


def _alignment(dtype: np.dtype[Any], classes: int) -> int:
    """Bytes that every row begins at a multiple of, 16 at most."""
    return math.gcd(_RUN_BYTES, classes * dtype.itemsize)


def _macros(request: LossRequest) -> dict[str, str]:
    """What the kernel is specialised by, besides its geometry."""
    call, loss = request.call, request.call.loss
    macros = {"LOGIT": _FORMATS[request.logits.dtype.name], "LOSS": _LOSSES[loss.name]}
    if loss.name == "focal" and loss.is_elementwise:
        macros["LOSS"] = "FOCAL_SIGMOID"
    if request.labels is None:
        macros["LABELS"] = "0"
    elif request.reading == "ids":
        macros["IDS"] = "1"
    else:
        macros["LABEL"] = _FORMATS[request.labels.dtype.name]
        macros["LABEL_ALIGNMENT"] = str(_alignment(request.labels.dtype, request.classes))
    switches = {
        "LABEL_TABLE": request.is_broadcast,
        "GRAD_LOGITS": call.grad_logits or request.reading == "none",
        "GRAD_LABELS": call.grad_labels,
        "CLASS_WEIGHT": request.class_weight is not None,
        "POS_WEIGHT": request.pos_weight is not None,
        "SOFTCAP": getattr(loss, "softcap", None) is not None,
        "TEMPERATURE": getattr(loss, "temperature", 1.0) != 1.0,
        "LABEL_SMOOTHING": getattr(loss, "label_smoothing", 0.0) != 0.0,
        "Z_LOSS": getattr(loss, "z_loss", 0.0) != 0.0,
        "TF_GRADIENT": getattr(loss, "label_gradient", "exact") == "tf",
        "TARGET_IS_LOGITS": getattr(loss, "target_is_logits", False),
        "CLIP_FIRST": getattr(loss, "clip_order", "normalize_first") == "clip_first",
        "LOGARITHM": loss.name == "log_softmax",
    }
    switches |= {extra.upper(): True for extra in getattr(loss, "extras", ())}
    return macros | {name: "1" for name, is_on in switches.items() if is_on}


def options(request: LossRequest) -> dict[str, float]:
    """The fields of `ARGUMENTS` that follow from a request's loss."""
    loss = request.call.loss
    temperature = getattr(loss, "temperature", 1.0)
    alpha = getattr(loss, "alpha", None)
    if alpha is None:
        alpha = -1.0 if loss.is_elementwise else 1.0
    is_squared = getattr(loss, "scale_by_temperature_squared", False)
    return {
        "label_smoothing": getattr(loss, "label_smoothing", 0.0),
        "z_loss": getattr(loss, "z_loss", 0.0),
        "softcap": getattr(loss, "softcap", None) or 1.0,
        "temperature": temperature,
        "gamma": getattr(loss, "gamma", 0.0),
        "alpha": alpha,
        "epsilon": getattr(loss, "epsilon", 0.0),
        "factor": temperature * temperature if is_squared else 1.0,
    }
