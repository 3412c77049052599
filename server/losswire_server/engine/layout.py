"""How a tile's rows lie in memory, and the operations along them that depend on it.

In: arrays `[rows, classes]` of a tile. With many classes each row lies by itself, and a sum runs
along it. With few classes, where such sums are too short to be worth their start, each class lies
by itself and a sum runs over all rows at once, class by class. Which of the two follows from the
number of classes alone, and within a row the order of every sum does: so a row's bits depend
neither on how many rows lie beside it nor on where they lie.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from losswire_proto.dtypes import Array
    from losswire_server.rows import Float64s, Int64s

FEW_CLASSES: Final = 64
"""Up to so many classes lie one by one. Where rows lie one by one, each operation along a row costs
some 30 ns beside its elements."""

_STRETCH: Final = 1024
"""Classes that are summed in the compute dtype; the sums of stretches are added up in float64."""

_SMALL: Final = 1 << 11
"""Elements up to which one call that goes row by row is faster than several that do not."""

_COUNTDOWN: Final = np.arange(FEW_CLASSES, 0, -1, dtype=np.uint8)[:, None]


def is_by_class(classes: int) -> bool:
    """Whether rows of so many classes lie class by class."""
    return classes <= FEW_CLASSES


def shaped(memory: Array, rows: int, classes: int) -> Array:
    """Flat memory as an array `[rows, classes]` in the layout of so many classes."""
    if is_by_class(classes):
        by_class: Array = memory.reshape(classes, rows).T
        return by_class
    return memory.reshape(rows, classes)


class Places:
    """One class of each row, as places in memory."""

    def __init__(self, classes: Int64s, shape: tuple[int, ...]) -> None:
        self._classes = classes
        self._rows = np.arange(shape[0])
        if is_by_class(shape[1]):
            self._flat = classes * shape[0] + self._rows
        else:
            self._flat = self._rows * shape[1] + classes

    def of(self, values: Array) -> Array:
        """The elements at these places, `[rows]`."""
        flat = _flat(values)
        picked: Array
        picked = values[self._rows, self._classes] if flat is None else flat.take(self._flat)
        return picked

    def put(self, values: Array, element: Array | float) -> None:
        """Writes one element for each row, or the same for all."""
        flat = _flat(values)
        if flat is None:
            values[self._rows, self._classes] = element
        else:
            flat[self._flat] = element


def _flat(values: Array) -> Array | None:
    """The array as its memory, where there are no gaps in it."""
    by_memory = values.T if is_by_class(values.shape[1]) else values
    return by_memory.reshape(-1) if by_memory.flags.c_contiguous else None


def peaks(values: Array) -> tuple[Int64s, Array]:
    """The class of the first largest element of each row, or of its first NaN; and the element."""
    classes = values.shape[1]
    if not is_by_class(classes) or values.size < _SMALL:
        peak = values.argmax(axis=1)
        return peak, Places(peak, values.shape).of(values)
    top = np.maximum.reduce(values, axis=1)
    # The earlier of equal classes has the higher rank; argmax itself would go row by row.
    is_top = np.equal(values.T, top)
    rank = np.multiply(is_top.view(np.uint8), _COUNTDOWN[-classes:])
    best = np.maximum.reduce(rank, axis=0)
    peak = classes - best.astype(np.int64)
    if not best.all():
        strange = np.flatnonzero(best == 0)
        peak[strange] = values[strange].argmax(axis=1)
    return peak, top


def row_sums(values: Array) -> Float64s:
    """Σ_c of each row."""
    if is_by_class(values.shape[1]):
        return _sums_by_class(values).astype(np.float64, copy=False)
    return _by_stretches("ij->i", "ijk->ij", values)


def weighted_sums(weights: Array, values: Array, product: Array) -> Float64s:
    """Σ_c weights * values of each row, where a weight of 0 takes nothing even of -inf.

    Weights are `[rows, classes]`, or `[classes]` for all rows alike. `product` is written; it may
    be `values`.
    """
    is_multiplied = is_by_class(values.shape[1]) or weights.ndim == 1
    if is_multiplied:
        total = row_sums(np.multiply(weights, values, out=product))
    else:
        total = _by_stretches("ij,ij->i", "ijk,ijk->ij", weights, values)
    strange = np.flatnonzero(np.isnan(total))
    if strange.size:
        part = weights if weights.ndim == 1 else weights[strange]
        products = product[strange] if is_multiplied else part * values[strange]
        total[strange] = row_sums(np.where(part == 0, values.dtype.type(0), products))
    return total


def scale_rows(values: Array, scale: Float64s) -> None:
    """Multiplies each row by its scale, in place."""
    if scale.strides != (0,):
        values *= scale.astype(values.dtype)[:, None]
    elif scale.size and scale[0] != 1.0:
        values *= values.dtype.type(scale[0])


def _sums_by_class(values: Array) -> Array:
    sums: Array
    if len(values) == 1:
        # `reduce` would see one long row here and add up pairwise. It begins with 0, which makes
        # 0 of a sum of -0 alone.
        sums = np.add.accumulate(values, axis=1)[:, -1] + values.dtype.type(0)
    else:
        # The inner loop of `reduce` follows the memory.
        by_class = values if values.strides[0] < values.strides[1] else np.asfortranarray(values)
        sums = np.add.reduce(by_class, axis=1)
    return sums


def _by_stretches(rest: str, stretch: str, *arrays: Array) -> Float64s:
    """The einsum `rest` over the last classes and `stretch` over all before, in stretches."""
    rows, classes = arrays[0].shape
    whole = classes - classes % _STRETCH
    total: Float64s = np.einsum(rest, *(array[:, whole:] for array in arrays)).astype(np.float64)
    if whole:
        shape = rows, whole // _STRETCH, _STRETCH
        parts = (array[:, :whole].reshape(shape) for array in arrays)
        total += np.add.reduce(np.einsum(stretch, *parts).astype(np.float64), axis=1)
    return total
