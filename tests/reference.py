"""Softmax cross-entropy by the book, in long double, over whole arrays: what results are held to.

Written from the formulas and not from the engine: no tiles, no tricks, another precision.
"""

import ml_dtypes
import numpy as np

WIDE = np.longdouble
DTYPES = [np.dtype(t) for t in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)]

# Relative error allowed: the figures for losses; for gradients as stored, one rounding.
LOSS_TOLERANCE = {"float16": 1e-6, "bfloat16": 1e-6, "float32": 1e-6, "float64": 1e-12}
GRAD_TOLERANCE = {"float16": 2**-11, "bfloat16": 2**-8, "float32": 1e-6, "float64": 1e-12}


def by_row(array, axis):
    """An array `[..., classes, ...]` as `[rows, classes]` in long double."""
    moved = np.moveaxis(np.asarray(array), axis, -1)
    return moved.reshape(-1, moved.shape[-1]).astype(np.float64).astype(WIDE)


def back(rows, shape, axis):
    """`[rows, classes]` in the shape `[..., classes, ...]`."""
    moved = shape[:axis] + shape[axis + 1 :] + (shape[axis],)
    return np.moveaxis(rows.reshape(moved), -1, axis)


def loss_and_gradient(logits, labels, *, axis=-1):
    """Per-example losses and their gradients, reduction "none", without weights."""
    axis %= logits.ndim
    z = by_row(logits, axis)
    if labels.dtype.kind in "iu":
        q = np.eye(z.shape[1], dtype=WIDE)[np.asarray(labels).reshape(-1)]
    else:
        q = by_row(np.broadcast_to(labels, logits.shape), axis)
    shifted = z - z.max(axis=1, keepdims=True)
    exp = np.exp(shifted)
    # log(1 + Σ of the others), since 1 + 1e-30 is 1 in any precision
    others = np.where(shifted == 0, 0, exp).sum(axis=1, keepdims=True)
    others += (shifted == 0).sum(axis=1, keepdims=True) - 1
    lse = np.log1p(others)
    loss = (q * (lse - shifted)).sum(axis=1)
    gradient = exp / (1 + others) * q.sum(axis=1, keepdims=True) - q
    examples = logits.shape[:axis] + logits.shape[axis + 1 :]
    return loss.reshape(examples), back(gradient, logits.shape, axis)


def assert_close(actual, expected, tolerance, floor=0.0):
    """Element-wise |actual - expected| <= tolerance * max(|expected|, floor)."""
    actual, expected = np.asarray(actual).astype(np.float64), np.asarray(expected)
    bound = tolerance * np.maximum(np.abs(expected), floor)
    wrong = ~(np.abs(actual - expected) <= bound)
    assert not wrong.any(), (
        f"{wrong.sum()} of {wrong.size} differ, by at most"
        f" {np.abs(actual - expected)[wrong].max()}: {actual[wrong][:3]} for {expected[wrong][:3]}"
    )
