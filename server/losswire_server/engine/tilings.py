"""Who computes a row: one table, decided by classes, dtype and options, and by the device.

In: what is common to the requests of a batch. Out: how many threads share a row, and how much of it
each has at once. Rows and their places decide nothing, so that a row's bits depend on neither.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from losswire_proto import dtypes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from losswire_server.requests import LossRequest

RUN_BYTES: Final = 16
"""Of logits, that a thread moves at once."""

MOST_CLASSES: Final = (1 << 31) - (1 << 14)
"""Of a row: kernels count them, and one part of a group's share beyond them, in 32 bits."""

FEW_CLASSES: Final = 64
"""Classes up to which a thread has a row for itself, if it can hold it."""

FEW_THREADS: Final = 128
"""Of a block whose threads have a row each, or fewer where shared memory is too small."""

HELD_BYTES: Final = 256
"""Of a row, or of a row and its labels, in the registers of one thread: 64 of them."""

SWEEP_THREADS: Final = 512
"""Of a block whose row is not held."""

PASSING_RUNS: Final = 2
"""Runs that a thread has at once of a row that is not held; fewer where less would be held."""

CLUSTER_CAPABILITY: Final = (9, 0)
"""From which blocks can read one another's shared memory."""

LANES: Final = {"LANES_PER_ROW": 8, "WARP_PER_ROW": 32}
"""Lanes of a warp that share a row, by tiling."""

_CROWDED_LOSSES: Final = frozenset({"focal", "categorical_cross_entropy"})
"""Powers, logarithms and divisions for each class, on the way to the gradient too."""

_RUNS: Final = (1, 2, 3, 4, 6, 8, 12, 16)


@dataclass(frozen=True, slots=True)
class Tiling:
    """Who computes a row.

    Attributes:
        name: of the macro in cuda/rows.cu; "THREAD_PER_ROW" is cuda/few.cu.
        threads: of a block.
        runs: 16 bytes of logits each, that a thread has at once: of "TWO_READS" one part of its
            share after the other, else all of it.
        cluster: blocks that share a row.
    """

    name: str
    threads: int
    runs: int = 0
    cluster: int = 1

    @property
    def group(self) -> int:
        """Threads that share a row."""
        return LANES.get(self.name, self.threads * self.cluster)


TILINGS: Final = (
    Tiling("LANES_PER_ROW", 128),
    Tiling("WARP_PER_ROW", 128),
    Tiling("BLOCK_PER_ROW", 128),
    Tiling("BLOCK_PER_ROW", 256),
    Tiling("BLOCK_PER_ROW", 512),
    Tiling("BLOCK_PER_ROW", 512, cluster=2),
    Tiling("BLOCK_PER_ROW", 512, cluster=4),
    Tiling("BLOCK_PER_ROW", 512, cluster=8),
)
"""The first that can hold a row in registers computes it.

In float32 these reach to 512, 2048, 8192, 16384, 32768, 65536, 131072 and 262144 classes, and half
as far with distributions, or in float64. Chosen by counting registers: none has been measured yet.
"""


@dataclass(frozen=True, slots=True)
class Traits:
    """What of a device decides about geometry.

    Attributes:
        capability: major and minor compute capability.
        multiprocessors: how many it has; a slice of a GPU may have few.
    """

    capability: tuple[int, int]
    multiprocessors: int

    @property
    def largest_cluster(self) -> int:
        """Blocks that can share a row; these take a multiprocessor each."""
        return self.multiprocessors if self.capability >= CLUSTER_CAPABILITY else 1


def tilings_of(request: LossRequest, traits: Traits) -> Iterator[Tiling]:
    """All tilings that could compute such rows on such a device; the first is the one that does."""
    run = RUN_BYTES // request.logits.dtype.itemsize
    held = HELD_BYTES // dtypes.compute_dtype(request.logits.dtype).itemsize
    if request.reading == "distribution":
        held //= 2  # a label beside each logit
    if _is_crowded(request):
        held //= 2
    if request.classes <= min(FEW_CLASSES, held):
        yield Tiling("THREAD_PER_ROW", FEW_THREADS)
    for tiling in TILINGS:
        is_able = tiling.cluster <= traits.largest_cluster
        if is_able and request.classes <= tiling.group * held:
            needed = -(-request.classes // (tiling.group * run))
            yield replace(tiling, runs=next(count for count in _RUNS if count >= needed))
    passing = HELD_BYTES // dtypes.compute_dtype(request.logits.dtype).itemsize // held
    yield Tiling("TWO_READS", SWEEP_THREADS, max(1, PASSING_RUNS // passing))


def certain_runs(request: LossRequest, tiling: Tiling) -> int:
    """Runs of each thread that no kernel of this kind finds missing, and so need not ask for.

    Without a branch between them a compiler takes up all runs at once. Where registers are few for
    all that a thread then has in mind, it is to ask for every run.
    """
    if _is_crowded(request) or request.call.loss.name == "kl_divergence":
        return 0
    if tiling.name == "TWO_READS":
        return tiling.runs if request.reading == "ids" else 0
    if tiling.name in LANES and request.reading == "distribution":
        return 0
    return max((count for count in _RUNS if count < tiling.runs), default=0)


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
