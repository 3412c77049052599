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

_FEW_TERMS: Final = 12
"""Terms of a row that are added up in the compute dtype, where each class lies by itself; their
sums are added up in float64. Roundings of many equal small terms beside a large one go one way."""

_STRETCH: Final = 128
"""The same where rows lie one by one: `einsum` has four sums or more of a stretch side by side, and
adds to each of them four terms at once."""

_WEIGHTED_STRETCH: Final = 64
"""The same of products, which it adds to its sums one by one."""

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
    """One class of each row, as places in memory.

    Attributes:
        classes: that they are of.
        rows: 0, 1, ….
        firsts: where in memory the class 0 of each row is.
    """

    def __init__(
        self, classes: Int64s, shape: tuple[int, ...], same_rows: Places | None = None
    ) -> None:
        """`same_rows` are other places of that shape, which have half of the work done."""
        self.classes = classes
        self._is_by_class = is_by_class(shape[1])
        if same_rows is None:
            self.rows = np.arange(shape[0])
            self.firsts = self.rows if self._is_by_class else self.rows * shape[1]
        else:
            self.rows, self.firsts = same_rows.rows, same_rows.firsts
        self._flat = self.firsts + (classes * shape[0] if self._is_by_class else classes)

    def of(self, values: Array) -> Array:
        """The elements at these places, `[rows]`."""
        by_memory = values.T if self._is_by_class else values
        picked: Array
        if by_memory.flags.c_contiguous:
            picked = by_memory.take(self._flat)
        else:
            picked = values[self.rows, self.classes]
        return picked

    def put(self, values: Array, element: Array | float) -> None:
        """Writes one element for each row, or the same for all."""
        by_memory = values.T if self._is_by_class else values
        if by_memory.flags.c_contiguous:
            by_memory.reshape(-1)[self._flat] = element
        else:
            values[self.rows, self.classes] = element


def peaks(values: Array) -> tuple[Places, Array]:
    """Of the first largest element of each row, or of its first NaN: the place, and the element."""
    classes = values.shape[1]
    if not is_by_class(classes) or values.size < _SMALL:
        places = Places(values.argmax(axis=1), values.shape)
        return places, places.of(values)
    top = np.maximum.reduce(values, axis=1)
    # The earlier of equal classes has the higher rank; argmax itself would go row by row.
    is_top = np.equal(values.T, top)
    rank = np.multiply(is_top.view(np.uint8), _COUNTDOWN[-classes:])
    best = np.maximum.reduce(rank, axis=0)
    peak = classes - best.astype(np.int64)
    if not best.all():
        strange = np.flatnonzero(best == 0)
        peak[strange] = values[strange].argmax(axis=1)
    return Places(peak, values.shape), top


def row_sums(values: Array) -> Float64s:
    """Σ_c of each row."""
    if is_by_class(values.shape[1]):
        return _sums_by_class(values)
    return _by_stretches("ij->i", "ijk->ij", _STRETCH, values)


def weighted_sums(weights: Array, values: Array, product: Array) -> Float64s:
    """Σ_c weights * values of each row, where a weight of 0 takes nothing even of -inf.

    Weights are `[rows, classes]`, or `[classes]` for all rows alike. `product` is written; it may
    be `values`.
    """
    is_multiplied = is_by_class(values.shape[1]) or weights.ndim == 1
    if is_multiplied:
        total = row_sums(np.multiply(weights, values, out=product))
    else:
        total = _by_stretches("ij,ij->i", "ijk,ijk->ij", _WEIGHTED_STRETCH, weights, values)
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


def _sums_by_class(values: Array) -> Float64s:
    classes = values.shape[1]
    # The inner loop of `reduce` follows the memory.
    by_class = values if values.strides[0] < values.strides[1] else np.asfortranarray(values)
    length = -(-classes // -(-classes // _FEW_TERMS))
    total = _sums_of_few(by_class[:, :length]).astype(np.float64, copy=False)
    for start in range(length, classes, length):
        total += _sums_of_few(by_class[:, start : start + length])
    return total


def _sums_of_few(values: Array) -> Array:
    sums: Array
    if len(values) == 1:
        # `reduce` would see one long row here and add up pairwise. It begins with 0, which makes
        # 0 of a sum of -0 alone.
        sums = np.add.accumulate(values, axis=1)[:, -1] + values.dtype.type(0)
    else:
        sums = np.add.reduce(values, axis=1)
    return sums


def _by_stretches(row: str, stretches: str, longest: int, *arrays: Array) -> Float64s:
    """The einsum `row`, whose terms are added up as those of `stretches` where they are many.

    Stretches are of one length, and what is left of a row is shorter.
    """
    rows, classes = arrays[0].shape
    if classes <= longest:
        short: Float64s = np.einsum(row, *arrays).astype(np.float64)
        return short
    length = classes // -(-classes // longest)
    whole = classes - classes % length
    parts = (array[:, :whole].reshape(rows, whole // length, length) for array in arrays)
    total: Float64s = np.einsum("ij->i", np.einsum(stretches, *parts).astype(np.float64))
    if whole < classes:
        total += np.einsum(row, *(array[:, whole:] for array in arrays))
    return total
