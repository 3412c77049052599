"""Arrays of any layout as rows, against NumPy's own way of moving an axis."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calls import LAYOUTS, laid_out
from losswire._rows import read_rows, row_view, spans, write_rows


@st.composite
def arrays(draw):
    """An array of numbers that are all different, in some layout, and a class axis or None."""
    rank = draw(st.integers(1, 5))
    axis = draw(st.none() | st.integers(0, rank - 1))
    shape = [draw(st.integers(0, 4)) for _ in range(rank)]
    if axis is not None:
        shape[axis] += 1  # there is always a class
    order = draw(st.permutations(range(rank)))
    size = np.prod(shape, dtype=int)
    array = np.arange(size).reshape([shape[each] for each in order])
    array = laid_out(array, draw(st.sampled_from(LAYOUTS)))
    return array.transpose(np.argsort(order)), axis


def moved(array, axis):
    """The rows as NumPy would copy them together."""
    by_row = array[..., None] if axis is None else np.moveaxis(array, axis, -1)
    rows = 1
    for length in by_row.shape[:-1]:
        rows *= length
    return by_row.reshape(rows, by_row.shape[-1])


@given(case=arrays(), data=st.data())
def test_rows_are_those_of_the_moved_axis(case, data):
    """Any span of rows, of any layout and axis, is read as NumPy's moveaxis has it."""
    array, axis = case
    expected = moved(array, axis)
    view = row_view(array, axis)
    assert view.ndim >= 2
    assert view.shape[-1] == expected.shape[1]
    assert view.size == 0 or np.shares_memory(view, array)
    if not len(expected):
        return
    start = data.draw(st.integers(0, len(expected) - 1))
    stop = data.draw(st.integers(start + 1, len(expected)))
    rows = read_rows(view, start, stop)
    assert rows.flags.c_contiguous
    assert np.array_equal(rows, expected[start:stop])


@given(case=arrays(), data=st.data())
def test_what_is_written_is_what_is_read(case, data):
    """Rows written to a span lie there afterwards, and nothing else has changed."""
    array, axis = case
    array = array.copy(order="K")
    expected = moved(array, axis).copy()
    if not len(expected):
        return
    start = data.draw(st.integers(0, len(expected) - 1))
    stop = data.draw(st.integers(start + 1, len(expected)))
    new = -1 - expected[start:stop]
    write_rows(row_view(array, axis), start, new)
    expected[start:stop] = new
    assert np.array_equal(moved(array, axis), expected)


@given(case=arrays(), data=st.data())
def test_spans_are_views(case, data):
    """The parts of a span look into the array, in order, and are few."""
    array, axis = case
    view = row_view(array, axis)
    total = len(moved(array, axis))
    if not view.size:
        return
    start = data.draw(st.integers(0, total - 1))
    stop = data.draw(st.integers(start + 1, total))
    parts = list(spans(view, start, stop))
    assert all(np.shares_memory(part, array) for part in parts)
    assert len(parts) <= 2 * view.ndim, "rows are handed over one by one"
    together = np.concatenate([part.reshape(-1, view.shape[-1]) for part in parts])
    assert np.array_equal(together, moved(array, axis)[start:stop])


def test_rows_that_lie_together_are_not_copied():
    """A block of a row-major array with the class axis last is a part of that array."""
    array = np.arange(60.0).reshape(3, 4, 5)
    assert np.shares_memory(read_rows(row_view(array, 2), 3, 9), array)
    assert np.shares_memory(read_rows(row_view(array, None), 7, 50), array)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_block_takes_the_memory_of_its_rows(layout):
    """However the array lies, what is allocated for a block is the block."""
    array = laid_out(np.zeros((40, 50, 60)), layout)
    for axis in (0, 1, 2):
        rows = read_rows(row_view(array, axis), 100, 130)
        owner = rows if rows.base is None else rows.base
        assert np.shares_memory(rows, array) or owner.nbytes == 30 * array.shape[axis] * 8
