"""Two warnings that save an afternoon, each given once per client.

- Logits whose rows lie in [0, 1] and sum to 1: a softmax was probably applied already.
- Distributions whose rows do not sum to 1.

They cost next to nothing: the first row of logits settles it for nearly every caller, and of labels
a few thousand numbers are looked at. What NumPy would say of infinities and NaN is not passed on.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from losswire_proto.dtypes import Array
    from losswire_proto.losses import LossCall

_LABELS_LOOKED_AT: Final = 4096
_GLANCE: Final = 4
"""Logits that settle it most of the time, in less than a call of NumPy's takes."""

_STACK_LEVEL: Final = 8
"""From `warnings.warn` to the caller of a client's method."""

_ON_LOGITS: Final = {"softmax_cross_entropy", "sequence_loss", "kl_divergence", "focal"}
_SUM_TO_ONE: Final = {"softmax_cross_entropy", "categorical_cross_entropy", "focal"}


class Advice:
    """What a client has not warned of yet."""

    def __init__(self) -> None:
        self._of_logits = True
        self._of_labels = True

    def consider(self, call: LossCall, axis: int, logits: Array, labels: Array | None) -> None:
        """Warns if what is sent looks like a mistake."""
        name = call.loss.name
        if call.loss.is_elementwise or not logits.size:
            return
        if self._of_logits and name in _ON_LOGITS and _look_like_probabilities(logits, axis):
            self._of_logits = False
            warnings.warn(
                "logits: every row lies in [0, 1] and sums to 1; was a softmax applied already?",
                stacklevel=_STACK_LEVEL,
            )
        is_tf = getattr(call.loss, "label_gradient", "exact") == "tf"
        if (
            self._of_labels
            and name in _SUM_TO_ONE
            and not is_tf
            and labels is not None
            and not _sum_to_one(labels, logits, axis)
        ):
            self._of_labels = False
            warnings.warn(
                "labels: some rows of distributions do not sum to 1", stacklevel=_STACK_LEVEL
            )


def _look_like_probabilities(logits: Array, axis: int) -> bool:
    if logits.shape[axis] == 1:
        return False
    rows = logits if axis == logits.ndim - 1 else np.moveaxis(logits, axis, -1)
    first = rows[(0,) * (rows.ndim - 1)]
    if not all(0 <= value <= 1 for value in first[:_GLANCE].tolist()):
        return False
    return _are_probabilities(first) and _are_probabilities(rows)


@np.errstate(all="ignore")
def _are_probabilities(rows: Array) -> bool:
    wide = rows.astype(np.float32, copy=False)
    if not (wide.min() >= 0 and wide.max() <= 1):
        return False
    return bool((np.abs(wide.sum(axis=-1) - 1) <= _slack(rows)).all())


@np.errstate(all="ignore")
def _sum_to_one(labels: Array, logits: Array, axis: int) -> bool:
    """Whether rows of float labels do, as far as was looked; true of class ids."""
    if labels.dtype.kind in "iu" or not labels.size:
        return True
    aligned = labels.reshape((1,) * (logits.ndim - labels.ndim) + labels.shape)
    rows = np.moveaxis(aligned, axis, -1)
    looked_at = max(1, _LABELS_LOOKED_AT // rows.shape[-1])
    if rows.shape[0] > looked_at:
        rows = rows[:looked_at]
    sums = rows.astype(np.float32, copy=False).sum(axis=-1)
    if rows.shape[-1] == 1:  # one number for all classes
        sums = sums * logits.shape[axis]
    return bool((np.abs(sums - 1) <= _slack(labels)).all())


def _slack(array: Array) -> float:
    """What rounding to the dtype may do to a sum of 1."""
    return 0.02 if array.dtype.itemsize == 2 else 1e-3
