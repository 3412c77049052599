"""Elements beyond 2^32 are found: the last of tensors of which only their pages exist.

Tensors are mapped without memory behind them, and of a launch only the last blocks are played,
which touch the last rows. What they write has the bits of the same rows by themselves; a product
formed in 32 bits would find zeros elsewhere, or memory that is nobody's.
"""

import mmap
from dataclasses import replace

import numpy as np
import pytest

from emulation.kernels import HOPPER, TURING, compiled, compute
from kernel_cases import PLAIN, request_of
from losswire_proto.losses import SigmoidCrossEntropy
from losswire_server.engine import launches
from losswire_server.requests import UNKNOWN

FAR = 5 << 30
"""Elements, at the least; 2^32 are before the last classes, even where they lie apart."""

LAST = 3
"""Rows that are computed: those of the last block, or of as many blocks."""

MAP_NORESERVE = 0x4000
TILINGS = {
    "a thread": (64, HOPPER),
    "a warp": (1_000, HOPPER),
    "a block": (5_000, HOPPER),
    "a cluster": (70_000, HOPPER),
    "two reads": (70_000, TURING),
}


def sparse(count, dtype):
    """So many zeros, whose pages come into being when they are written."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE
    nbytes = count * np.dtype(dtype).itemsize
    return np.frombuffer(mmap.mmap(-1, nbytes, flags=flags), dtype)


def among(near, rows):
    """The same request as the last of so many rows, of which the others take no memory."""
    logits = np.broadcast_to(near.logits[:1], (rows, near.classes))
    labels = np.broadcast_to(near.labels[:1], (rows, *near.labels.shape[1:]))
    return replace(near, logits=logits, labels=labels, form=UNKNOWN)


def play_last(whole, traits, elements, labels, *, is_strided=False):
    """Computes the last rows, with gradients over their logits; gives the losses of all rows."""
    launch = launches.plan(whole, whole.rows, traits, is_strided=is_strided)
    arrays = {
        "logits": elements,
        "dense": elements,
        "per_example": sparse(whole.rows, np.float32),
        "fault": np.array([launches.NO_FAULT], np.uint64),
        "segments": np.array([(0, 0, whole.rows)], launches.SEGMENT),
        "ids" if whole.reading == "ids" else "labels": labels,
    }
    record = np.zeros((), launches.ARGUMENTS)
    for name, array in arrays.items():
        record[name] = array.ctypes.data
    record["segment_count"], record["rows"], record["classes"] = 1, whole.rows, whole.classes
    record["weight_of_all"] = record["scale_of_all"] = 1.0
    for name, value in launches.options(whole).items():
        record[name] = value
    blocks = LAST if launch.grid == whole.rows * launch.cluster else 1
    compiled(launch.kernel).launch(
        launch.grid,
        launch.block,
        launch.shared_bytes,
        record[()],
        launch.cluster,
        first=launch.grid - blocks * launch.cluster,
    )
    return arrays["per_example"]


def rows_beyond(classes):
    """The least number of rows of which the last come alone in their block, or nearly."""
    return -(-FAR // classes // 128) * 128 + LAST


@pytest.mark.parametrize("layout", ["together", "apart"])
@pytest.mark.parametrize("tiling", TILINGS)
def test_rows(tiling, layout):
    """By every tiling, with classes side by side, and as far apart as there are rows."""
    classes, traits = TILINGS[tiling]
    near = request_of(PLAIN, (LAST, classes), "float16")
    expected = compute(near, traits)
    whole = among(near, rows_beyond(classes))
    elements = sparse(whole.rows * classes, np.float16)
    ids = sparse(whole.rows, np.int32)
    ids[-LAST:] = near.labels
    is_strided = layout == "apart"
    table = elements.reshape((classes, whole.rows) if is_strided else (whole.rows, classes))
    last = table[:, -LAST:].T if is_strided else table[-LAST:]
    last[...] = near.logits
    losses = play_last(whole, traits, elements, ids, is_strided=is_strided)
    assert losses[-LAST:].tobytes() == expected.per_example.tobytes()
    assert last.tobytes() == expected.dense.tobytes()


def test_elements():
    """Losses element by element."""
    near = request_of(SigmoidCrossEntropy(), (LAST, 1), "float16", labels="elements")
    expected = compute(near)
    whole = among(near, FAR + LAST)
    elements, labels = sparse(whole.rows, np.float16), sparse(whole.rows, np.float16)
    elements[-LAST:], labels[-LAST:] = near.logits.ravel(), near.labels.ravel()
    losses = play_last(whole, HOPPER, elements, labels)
    assert losses[-LAST:].tobytes() == expected.per_example.tobytes()
    assert elements[-LAST:].tobytes() == expected.dense.tobytes()
