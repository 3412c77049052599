"""Which kernel computes a batch, and in what geometry: one table, decided by classes and dtype.

In: what is common to the requests of a batch. Out: the source to compile, its macros, and the grid.
The number of rows sizes the grid and nothing else, so that a row's bits do not depend on its batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from losswire_server.requests import LossRequest

SEGMENT: Final = np.dtype([("first_row", "<i8"), ("offset", "<i8"), ("inner", "<i8")])
"""`Segment` of cuda/arguments.cuh."""

_POINTERS: Final = (
    "logits dense labels grad_labels ids class_weight pos_weight weight scale flags per_example"
    " logsumexp argmax entropy fault segments"
)
_COUNTS: Final = "segment_count rows classes"
_NUMBERS: Final = (
    "weight_of_all scale_of_all class_weight_sum label_smoothing z_loss softcap temperature gamma"
    " alpha epsilon factor"
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
    raise NotImplementedError


def options(request: LossRequest) -> dict[str, float]:
    """The fields of `ARGUMENTS` that follow from a request's loss, and its class weights' sum."""
    raise NotImplementedError
