"""The right answers of a few rows, in long double, from the formulas.

In: rows of logits or probabilities `[rows, classes]` and their labels. Out: per-example losses,
None for the transforms, and the gradient or output `[rows, classes]`. Every loss as it is with the
options left alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from losswire_proto.dtypes import Array

Wide: TypeAlias = npt.NDArray[np.longdouble]
Answer: TypeAlias = "tuple[Wide | None, Wide]"
Truth: TypeAlias = "Callable[[Wide, Array], Answer]"

_GAMMA: Final = 2
"""Of focal loss."""

_EPSILON: Final = 1e-7
"""Of the losses on probabilities; the binary one is never asked for any that near to 0 or 1."""


def _log_softmax(z: Wide) -> Wide:
    shifted = z - z.max(axis=1, keepdims=True)
    log_p: Wide = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log_p


def _one_hot(ids: Array, classes: int) -> Wide:
    hot = np.zeros((len(ids), classes), np.longdouble)
    hot[np.arange(len(ids)), ids] = 1
    return hot


def _softmax_cross_entropy(z: Wide, labels: Array) -> Answer:
    """-Σ y log(p) and p Σy - y, with y one-hot for class ids."""
    log_p = _log_softmax(z)
    y = labels if labels.ndim == 2 else _one_hot(labels, z.shape[1])
    mass = y.sum(axis=1, keepdims=True)
    return -(y * log_p).sum(axis=1), (np.exp(log_p) * mass - y).astype(np.longdouble)


def _sigmoid_cross_entropy(z: Wide, y: Array) -> Answer:
    """log(1 + exp(-|z|)) + max(z, 0) - z y and sigmoid(z) - y."""
    loss = np.log1p(np.exp(-np.abs(z))) + np.maximum(z, 0) - z * y
    return loss, (1 / (1 + np.exp(-z)) - y).astype(np.longdouble)


def _categorical_cross_entropy(p: Wide, ids: Array) -> Answer:
    """-log(p_y / Σp), clipped to [ε, 1-ε], and 1 / Σp - y / p_y, or 0 where it was clipped."""
    total, picked = p.sum(axis=1), p[np.arange(len(ids)), ids]
    share = picked / total
    clipped = np.clip(share, _EPSILON, 1 - np.longdouble(_EPSILON))
    gradient = 1 / total[:, None] - _one_hot(ids, p.shape[1]) / picked[:, None]
    return -np.log(clipped), gradient * (share == clipped)[:, None]


def _binary_cross_entropy(p: Wide, y: Array) -> Answer:
    """-(y log(p) + (1-y) log(1-p)) and (p - y) / (p (1-p))."""
    return -(y * np.log(p) + (1 - y) * np.log1p(-p)), (p - y) / (p * (1 - p))


def _kl_divergence(z: Wide, y: Array) -> Answer:
    """Σ y (log(y) - log(p)) and p Σy - y."""
    log_p, y = _log_softmax(z), y.astype(np.longdouble)
    loss = (y * (np.log(y) - log_p)).sum(axis=1)
    return loss, np.exp(log_p) * y.sum(axis=1, keepdims=True) - y


def _focal(z: Wide, ids: Array) -> Answer:
    """-(1-p_y)^γ log(p_y), and its slope to p_y times p_y (y - p)."""
    log_p, rows = _log_softmax(z), np.arange(len(ids))
    log_picked = log_p[rows, ids]
    picked = np.exp(log_picked)
    others = 1 - picked
    slope = _GAMMA * others ** (_GAMMA - 1) * picked * log_picked - others**_GAMMA
    gradient = slope[:, None] * (_one_hot(ids, z.shape[1]) - np.exp(log_p))
    return -(others**_GAMMA) * log_picked, gradient


TRUTHS: Final[Mapping[str, Truth]] = {
    "softmax_cross_entropy": _softmax_cross_entropy,
    "sigmoid_cross_entropy": _sigmoid_cross_entropy,
    "categorical_cross_entropy": _categorical_cross_entropy,
    "binary_cross_entropy": _binary_cross_entropy,
    "kl_divergence": _kl_divergence,
    "focal": _focal,
    "softmax": lambda z, _labels: (None, np.exp(_log_softmax(z))),
    "log_softmax": lambda z, _labels: (None, _log_softmax(z)),
    "sequence_loss": _softmax_cross_entropy,
}
"""By the names of the client's methods."""
