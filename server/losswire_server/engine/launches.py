"""Which kernel computes a batch, and in what geometry.

In: what is common to the requests of a batch, and who computes a row of theirs (`tilings`). Out:
the source to compile, its macros, and the grid. The number of rows sizes the grid and nothing else,
so that a row's bits do not depend on its batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from losswire_proto import dtypes
from losswire_server.engine.tilings import (
    LANES,
    RUN_BYTES,
    Tiling,
    certain_runs,
    tilings_of,
)

if TYPE_CHECKING:
    from losswire_server.engine.tilings import Traits
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

SECTOR_BYTES: Final = 32
"""The least that is fetched of memory: so many bytes of neighbouring rows whose classes lie apart
belong to one block."""

SHARED_BYTES: Final = 48 << 10
"""Of a block, on every device and without asking for more."""

COMPILER_OPTIONS: Final = ("--std=c++17", "--fmad=false")
"""Of every kernel. A product that a sum may swallow unrounded would be another number from one
kernel to the next: a row's bits would depend on where its classes lie."""

_WARP: Final = 32
_ELEMENT_THREADS: Final = 256
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
        return _plan_few(request, rows, macros, tiling.threads)
    is_in_warp = tiling.name in LANES
    if is_in_warp and is_strided:
        threads = tiling.group * SECTOR_BYTES // request.logits.dtype.itemsize
        tiling = replace(tiling, threads=max(_WARP, threads))
    macros.update(
        TILING=tiling.name,
        THREADS=str(tiling.threads),
        RUNS=str(tiling.runs),
        CERTAIN_RUNS=str(certain_runs(request, tiling)),
        CLUSTER=str(tiling.cluster),
        LANES=str(tiling.group if is_in_warp else _WARP),
        LOGIT_ALIGNMENT=str(_alignment(request.logits.dtype, request.classes)),
    )
    kernel = _kernel("rows.cu", "losswire_rows", macros)
    if is_in_warp:
        in_block = tiling.threads // tiling.group
        shared = in_block * _tile_bytes(request, tiling.group) if is_strided else 0
        return Launch(kernel, _ceil(rows, in_block), tiling.threads, shared)
    shared = 2 * (tiling.threads // _WARP + tiling.cluster) * _EXCHANGED_BYTES
    return Launch(kernel, rows * tiling.cluster, tiling.threads, shared, tiling.cluster)


def _plan_elements(request: LossRequest, rows: int) -> Launch:
    """A thread for as many elements as fill 16 bytes."""
    macros = _macros(request) | {"THREADS": str(_ELEMENT_THREADS)}
    run = RUN_BYTES // request.logits.dtype.itemsize
    kernel = _kernel("elements.cu", "losswire_elements", macros)
    return Launch(kernel, _ceil(rows, _ELEMENT_THREADS * run), _ELEMENT_THREADS, 0)


def _plan_few(request: LossRequest, rows: int, macros: dict[str, str], threads: int) -> Launch:
    """A thread per row; as many threads as shared memory of every device has room for."""
    classes = request.classes
    pitches = 0 if macros["STRIDED"] == "1" else _pitch(classes * request.logits.dtype.itemsize)
    if request.is_broadcast and request.call.grad_labels:  # summed in the type they are computed in
        pitches += _pitch(classes * dtypes.compute_dtype(request.logits.dtype).itemsize)
    elif request.reading == "distribution" and not request.is_broadcast and pitches:
        pitches += _pitch(classes * request.labels.dtype.itemsize)  # type: ignore[union-attr]
    while threads * pitches > SHARED_BYTES:
        threads //= 2
    macros |= {"CLASSES": str(classes), "THREADS": str(threads)}
    kernel = _kernel("few.cu", "losswire_few", macros)
    return Launch(kernel, _ceil(rows, threads), threads, threads * pitches)


def _pitch(row_bytes: int) -> int:
    """Bytes from one row to the next in shared memory; `Staged` of cuda/few.cu."""
    return row_bytes + 16 if row_bytes % 32 == 0 else row_bytes


def _tile_bytes(request: LossRequest, lanes: int) -> int:
    """Shared memory of `Together` in cuda/tiles.cuh for each row: a round of its classes."""
    itemsize = dtypes.compute_dtype(request.logits.dtype).itemsize
    classes = lanes * RUN_BYTES // request.logits.dtype.itemsize
    nbytes: int = classes * itemsize + RUN_BYTES
    return nbytes


def _kernel(source: str, entry: str, macros: dict[str, str]) -> Kernel:
    return Kernel(source, entry, tuple(sorted(macros.items())))


def _ceil(count: int, each: int) -> int:
    return -(-count // each)


def _alignment(dtype: np.dtype[Any], classes: int) -> int:
    """Bytes that every row begins at a multiple of, 16 at most."""
    return math.gcd(RUN_BYTES, classes * dtype.itemsize)


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
