"""What is known of rows, in parts, and sums over rows that do not depend on the parts."""

import threading
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from losswire_server import rows
from losswire_server.rows import LabelGradient, LabelTable, LossSum, Weighting

RANDOM = np.random.default_rng(4)
SHAPES = [(), (1,), (3,), (5, 1), (4, 1, 3), (4, 1, 1), (4, 5, 3), (1, 5, 1), (4, 5, 1)]


def cut(length, cuts):
    """Slices that together are `length` rows, cut at some of them."""
    edges = sorted({0, length, *(each % (length + 1) for each in cuts)})
    return [slice(*pair) for pair in pairwise(edges)]


@given(
    sizes=st.lists(st.integers(0, 25), max_size=8),
    scale=st.sampled_from([1e-30, 1.0, 1e300]),
)
def test_sums_do_not_depend_on_the_parts(sizes, scale):
    """Losses that come in any portions sum to the same bits, over any number of inner sums."""
    losses = np.random.default_rng(sum(sizes)).normal(size=sum(sizes)) * scale
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows, "SUM_ROWS", 8)
        at_once, in_parts = LossSum(), LossSum()
        at_once.add(losses)
        for part in np.split(losses, np.cumsum(sizes)):
            in_parts.add(part)
        assert in_parts.value().tobytes() == at_once.value().tobytes()
        inner = [losses[at : at + 8].sum() for at in range(0, losses.size, 8)]
        assert at_once.value() == pytest.approx(float(np.sum(inner)), rel=1e-12, abs=scale * 1e-12)


def test_a_sum_can_be_read_and_continued():
    """The sum so far does not end the summing; infinities and NaN are no error."""
    total = LossSum()
    assert total.value() == 0
    total.add(np.float32([1, 2]))
    assert total.value() == 3
    total.add(np.float32([[0.5]]))
    assert total.value() == 3.5
    total.add(np.float32([np.inf, -np.inf]))
    assert np.isnan(total.value())


@pytest.mark.parametrize("labels", SHAPES, ids=str)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_table_names_the_row_of_each_example(labels, axis):
    """Looked up by its index, the table is the broadcast labels, class axis last; parts too."""
    shape = (4, 5, 3)
    values = RANDOM.random(labels)
    table = LabelTable.of(values, shape, axis)
    whole = np.moveaxis(np.broadcast_to(values, shape), axis, -1).reshape(-1, shape[axis])
    assert len(table.table) * table.table.shape[1] == values.size
    filled = np.empty_like(whole)
    for span in cut(len(whole), [3, 4, 11]):
        part = table.part(span)
        part.fill(filled[span], slice(0, span.stop - span.start))
    assert np.array_equal(filled, whole)


@pytest.mark.parametrize("labels", SHAPES, ids=str)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gradients_to_labels_are_summed_over_what_was_broadcast(labels, axis):
    """The sum has the labels' shape and dtype, and the same bits however the rows were cut."""
    shape = (4, 5, 3)
    values = np.ones(labels, np.float32)
    table = LabelTable.of(values, shape, axis)
    # Small integers, whose sums are exact in any order.
    grad = RANDOM.integers(-9, 9, shape).astype(np.float32)
    by_row = np.moveaxis(grad, axis, -1).reshape(-1, shape[axis])
    expected = grad
    for dimension in range(3):
        lacks = dimension < 3 - len(labels) or labels[dimension - 3] == 1
        expected = expected.sum(axis=dimension, keepdims=True) if lacks else expected
    for cuts in ([], [1, 2, 7], range(len(by_row))):
        total = LabelGradient(table)
        for span in cut(len(by_row), cuts):
            total.add(span.start, table.index[span], by_row[span])
        value = total.value(values, axis, 3)
        assert value.dtype == np.float32
        assert np.array_equal(value, expected.reshape(labels))


def test_rows_are_added_in_their_order():
    """Whichever thread comes first, the sum is that of the rows one after another."""
    grad = RANDOM.normal(size=(12, 3))
    table = LabelTable.of(np.ones(3), (12, 3), 1)
    in_order = LabelGradient(table)
    in_order.add(0, table.index, grad)
    total = LabelGradient(table)
    threads = []
    for start in reversed(range(0, 12, 3)):
        span = slice(start, start + 3)
        arguments = (start, table.index[span], grad[span])
        threads.append(threading.Thread(target=total.add, args=arguments))
        threads[-1].start()
    for thread in threads:
        thread.join()
    expected = in_order.value(np.ones(3), 1, 2)
    assert total.value(np.ones(3), 1, 2).tobytes() == expected.tobytes()


def test_rows_that_come_again_count_once():
    """What a batch that is computed again adds a second time is not added."""
    table = LabelTable.of(np.ones(3), (4, 3), 1)
    total = LabelGradient(table)
    for start in (0, 0, 2, 0, 2):
        total.add(start, table.index[start : start + 2], np.ones((2, 3)))
    assert total.value(np.ones(3), 1, 2).tolist() == [4, 4, 4]


def test_nobody_waits_for_rows_that_will_not_come():
    """Who waits for the rows before its own is told when they have been given up."""
    table = LabelTable.of(np.ones(3), (4, 3), 1)
    total = LabelGradient(table)
    errors = []

    def add():
        with pytest.raises(RuntimeError, match="could not be computed") as caught:
            total.add(2, table.index[2:], np.ones((2, 3)))
        errors.append(caught.value)

    thread = threading.Thread(target=add)
    thread.start()
    total.abandon()
    thread.join()
    assert errors


def test_a_part_of_a_weighting_knows_its_rows():
    """Each vector is cut alike; what is not there stays away, what is for all stays as it is."""
    whole = Weighting(
        ids=np.arange(9),
        weight=np.arange(9.0),
        scale=np.arange(9.0) / 2,
        no_loss=np.arange(9) % 2 == 0,
        no_grad=None,
        divisor=3.5,
        is_empty_zero=True,
    )
    part = whole.part(slice(2, 5))
    assert part.ids.tolist() == [2, 3, 4]
    assert part.weight.tolist() == [2, 3, 4]
    assert part.scale.tolist() == [1, 1.5, 2]
    assert part.no_loss.tolist() == [True, False, True]
    assert part.no_grad is None
    assert (part.divisor, part.is_empty_zero, part.is_scale_nan) == (3.5, True, False)
    assert np.shares_memory(part.weight, whole.weight)


def test_a_label_gradient_beyond_its_dtype_is_infinite():
    """Summed in float64 and given in the labels' dtype, it warns of nothing."""
    labels = np.ones((1, 2), np.float32)
    gradient = LabelGradient(LabelTable.of(labels, (1, 2), 1))
    gradient.add(0, np.zeros(1, np.int64), np.asarray([[1e300, 1.0]]))
    assert gradient.value(labels, 1, 2).tolist() == [[np.inf, 1.0]]
