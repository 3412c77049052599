"""Kernels of the fake device: losses by the book, in long double, row by row as they lie there.

They know of memory and arguments alone, like those of a GPU.
"""

from dataclasses import dataclass

import numpy as np

from losswire_proto import dtypes
from losswire_server.engine.launches import (
    NO_FAULT,
    NO_GRADIENT,
    NO_LOSS,
    SEGMENT,
    Kernel,
    Launch,
)
from reference import WIDE

DTYPES = {dtype.name: dtype for dtype in dtypes.FLOATS}


def plan(request, rows, traits, *, is_strided):
    """A kernel for what the request is, as the real ones are chosen by it."""
    table = request.is_broadcast
    labels = request.labels
    label_dtype = "" if labels is None or request.reading == "ids" else labels.dtype.name
    macros = {
        "LOSS": request.call.loss.name,
        "LOGIT": request.logits.dtype.name,
        "LABEL": label_dtype,
        "READING": request.reading,
        "TABLE": str(int(table)),
        "STRIDED": str(int(is_strided)),
    }
    kernel = Kernel("fake.cu", "fake", tuple(sorted(macros.items())))
    return Launch(kernel, grid=max(1, rows), block=32, shared_bytes=0)


def options(request):
    """None of the fake kernels has any."""
    return {}


@dataclass
class _Rows:
    """What a kernel finds by its arguments."""

    memory: object
    arguments: object
    macros: dict

    def __post_init__(self):
        self.rows, self.classes = int(self.arguments["rows"]), int(self.arguments["classes"])
        self.logit = DTYPES[self.macros["LOGIT"]]
        self.real = dtypes.compute_dtype(self.logit)
        self.index = np.arange(self.rows)[:, None] * self.classes + np.arange(self.classes)
        if self.macros["STRIDED"] == "1":
            self.index = self._strided()

    def _strided(self):
        count = int(self.arguments["segment_count"])
        segments = self.memory.array(self.arguments["segments"], SEGMENT, count)
        row = np.arange(self.rows)
        mine = segments[np.searchsorted(segments["first_row"], row, side="right") - 1]
        outer, column = np.divmod(row - mine["first_row"], mine["inner"])
        first = mine["offset"] + outer * self.classes * mine["inner"] + column
        return first[:, None] + np.arange(self.classes) * mine["inner"][:, None]

    def wants(self, name):
        return bool(self.arguments[name])

    def all(self, name, dtype):
        """All elements of an array as the logits lie."""
        return self.memory.array(self.arguments[name], dtype, self.rows * self.classes)

    def wide(self, name, dtype):
        """`[rows, classes]` in long double, wherever the classes lie."""
        return self.all(name, dtype)[self.index].astype(np.float64).astype(WIDE)

    def put(self, name, dtype, rows):
        self.all(name, dtype)[self.index] = rows.astype(np.float64).astype(dtype)

    def by_row(self, name, dtype):
        return self.memory.array(self.arguments[name], dtype, self.rows)

    def number(self, name):
        """`[rows, 1]`: a field of its own, or the number for all rows."""
        if self.wants(name):
            return self.by_row(name, np.float64)[:, None]
        return np.full((self.rows, 1), self.arguments[name + "_of_all"])

    def flagged(self, bit):
        if not self.wants("flags"):
            return np.zeros(self.rows, bool)
        return self.by_row("flags", np.uint8) & bit != 0


def run(launch, arguments, memory):
    """Computes what the launch's macros say."""
    rows = _Rows(memory, arguments, dict(launch.kernel.macros))
    with np.errstate(all="ignore"):
        if rows.macros["READING"] == "none":
            rows.put("dense", rows.logit, _softmax(rows.wide("logits", rows.logit))[0])
        elif rows.macros["READING"] == "elements":
            _sigmoid(rows)
        else:
            _cross_entropy(rows)


def _softmax(z):
    """Probabilities, logarithms of their sums, and the largest."""
    largest = z.max(axis=1, keepdims=True)
    exp = np.exp(z - largest)
    total = exp.sum(axis=1, keepdims=True)
    return exp / total, np.log(total) + largest


def _distributions(rows):
    """`[rows, classes]`, whatever the labels are."""
    if rows.macros["READING"] == "ids":
        ids = rows.by_row("ids", np.int32)
        bad = np.flatnonzero((ids < 0) | (ids >= rows.classes))
        if bad.size:
            fault = rows.memory.array(rows.arguments["fault"], np.uint64, 1)
            assert fault[0] == NO_FAULT
            fault[0] = bad[0]
        q = np.zeros((rows.rows, rows.classes), WIDE)
        q[np.arange(rows.rows), np.where(ids < rows.classes, ids, 0)] = 1
        return q
    dtype = DTYPES[rows.macros["LABEL"]]
    if rows.macros["TABLE"] == "0":
        return rows.wide("labels", dtype)
    ids = rows.by_row("ids", np.int32)
    table = rows.memory.array(rows.arguments["labels"], dtype, int(ids.max()) + 1, rows.classes)
    return table[ids].astype(np.float64).astype(WIDE)


def _cross_entropy(rows):
    z, weight = rows.wide("logits", rows.logit), WIDE(1)
    if rows.wants("class_weight"):
        weight = rows.memory.array(rows.arguments["class_weight"], rows.real, rows.classes)
    q = _distributions(rows) * weight
    p, lse = _softmax(z)
    loss = (q * (lse - z)).sum(axis=1)
    _put_losses(rows, loss)
    if rows.wants("logsumexp"):
        rows.by_row("logsumexp", rows.real)[:] = lse[:, 0]
    if rows.wants("argmax"):
        rows.by_row("argmax", np.int64)[:] = z.argmax(axis=1)
    if rows.wants("entropy"):
        rows.by_row("entropy", rows.real)[:] = (p * (lse - z)).sum(axis=1)
    scale, none = rows.number("scale"), rows.flagged(NO_GRADIENT)
    if rows.wants("dense"):
        gradient = (p * q.sum(axis=1, keepdims=True) - q) * scale
        gradient[none] = 0
        rows.put("dense", rows.logit, gradient)
    if rows.wants("grad_labels"):
        gradient = weight * (lse - z) * scale
        gradient[none] = 0
        if rows.macros["TABLE"] == "1":
            shape = (rows.rows, rows.classes)
            rows.memory.array(rows.arguments["grad_labels"], rows.real, *shape)[:] = gradient
        else:
            rows.put("grad_labels", DTYPES[rows.macros["LABEL"]], gradient)


def _sigmoid(rows):
    z, y = rows.wide("logits", rows.logit), rows.wide("labels", DTYPES[rows.macros["LABEL"]])
    weight = rows.wide("pos_weight", rows.real) if rows.wants("pos_weight") else WIDE(1)
    loss = (1 - y) * z + (1 + (weight - 1) * y) * np.logaddexp(WIDE(0), -z)
    _put_losses(rows, loss[:, 0])
    if rows.wants("dense"):
        gradient = (1 - y) - (1 + (weight - 1) * y) / (1 + np.exp(z))
        rows.put("dense", rows.logit, gradient * rows.number("scale"))


def _put_losses(rows, loss):
    weighted = loss * rows.number("weight")[:, 0]
    weighted[rows.flagged(NO_LOSS)] = 0
    rows.by_row("per_example", rows.real)[:] = weighted
