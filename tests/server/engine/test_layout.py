"""Operations along rows: their values, and bits that depend on neither layout nor company."""

import math

import numpy as np
import pytest

from losswire_server.engine import layout
from losswire_server.engine.layout import Places, peaks, row_sums, scale_rows, shaped, weighted_sums

CLASSES = (1, 2, 3, 7, 8, 9, 10, 16, 17, 33, 63, 64, 65, 129, 1000, 1023, 1024, 1025, 5003)


def laid_out(rows):
    """The rows in the layout of a tile."""
    tile = shaped(np.empty(rows.size, rows.dtype), *rows.shape)
    tile[...] = rows
    return tile


def within(rows):
    """The rows in the layout of a tile, with gaps: a part of a larger array."""
    wide = np.concatenate([rows, rows])
    larger = wide.T.copy().T if layout.is_by_class(rows.shape[1]) else wide
    return larger[: len(rows)]


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_have_their_bits_in_any_company(classes, dtype):
    """Sums of a row are the same bits alone, among few, among many, and in a part of an array."""
    random = np.random.default_rng(classes)
    values = random.normal(size=(37, classes)).astype(dtype)
    weights = random.random((37, classes)).astype(dtype)
    weights[5, 0], values[5, 0], values[6, classes // 2] = 0, -np.inf, np.nan

    def sums(rows, place):
        v, w = place(values[rows]), place(weights[rows])
        with np.errstate(invalid="ignore"):
            weighted = weighted_sums(w, v, np.empty_like(v))
            return [row_sums(v), weighted, weighted_sums(weights[0], v, v)]

    for first in (0, 4, 6):
        whole = sums(slice(first, None), laid_out)
        for count in (1, 2, 3, 5):
            for place in (laid_out, within):
                part = sums(slice(first, first + count), place)
                for a, b in zip(part, whole, strict=True):
                    assert a.tobytes() == b[:count].tobytes()


@pytest.mark.parametrize("classes", CLASSES)
def test_sums_are_right(classes):
    """Sums in float32 are those of exact arithmetic to a few roundings of their largest terms."""
    random = np.random.default_rng(classes)
    values, weights = random.random((2, 11, classes), dtype=np.float32)
    exact = [math.fsum(row) for row in values.astype(float)]
    np.testing.assert_allclose(row_sums(laid_out(values)), exact, rtol=2.0**-21)
    products = weights.astype(float) * values
    exact = [math.fsum(row) for row in products]
    tile = laid_out(values)
    result = weighted_sums(laid_out(weights), tile, np.empty_like(tile))
    np.testing.assert_allclose(result, exact, rtol=2.0**-21)


@pytest.mark.parametrize("classes", CLASSES)
def test_many_equal_terms_beside_a_large_one(classes):
    """What each small term loses, beside the large one, it loses in the same direction.

    Of a dozen, or of eight times sixteen side by side.
    """
    random = np.random.default_rng(classes)
    small = np.exp2(random.uniform(-26, -8, (1000, 1)))
    values = np.repeat(small, classes, axis=1).astype(np.float32)
    values[:, random.integers(classes)] = random.uniform(0.5, 1, 1000)
    weights = np.full_like(values, 0.7)
    total = values.astype(float).sum(axis=1)
    tile = laid_out(values)
    np.testing.assert_allclose(row_sums(tile), total, rtol=2.0**-20)
    weighted = weighted_sums(laid_out(weights), tile, tile)
    np.testing.assert_allclose(weighted, np.float32(0.7) * total, rtol=2.0**-20)


@pytest.mark.parametrize("classes", [2, 64, 65, 1025])
def test_a_weight_of_zero_takes_nothing(classes):
    """0 * -inf counts as 0 in its row, 0 * NaN too, and other rows are left alone."""
    values = np.ones((4, classes), np.float32)
    values[1, 0], values[2, 0] = -np.inf, -np.inf
    weights = np.ones_like(values)
    weights[1, 0] = 0
    tile = laid_out(values)
    with np.errstate(invalid="ignore"):
        result = weighted_sums(laid_out(weights), tile, np.empty_like(tile))
    assert result.tolist() == [classes, classes - 1, -np.inf, classes]


@pytest.mark.parametrize("classes", CLASSES)
def test_peaks_are_the_first_largest(classes):
    """Of equal elements the first, of a NaN its place, as `argmax` says."""
    random = np.random.default_rng(classes)
    rows = 3000 if classes < 100 else 20
    values = random.integers(0, max(2, classes // 2), (rows, classes)).astype(np.float32)
    values[3], values[4], values[5, classes // 2] = -np.inf, np.inf, np.nan
    places, top = peaks(laid_out(values))
    assert places.classes.tolist() == values.argmax(axis=1).tolist()
    np.testing.assert_array_equal(top, values.max(axis=1))


@pytest.mark.parametrize("classes", [1, 2, 64, 65])
@pytest.mark.parametrize("rows", [1, 2, 9])
def test_places(classes, rows):
    """One element of each row is read and written, also in a part of a larger array."""
    picked = np.arange(rows) % classes
    values = np.arange(rows * classes, dtype=np.float32).reshape(rows, classes)
    expected = values.copy()
    expected[np.arange(rows), picked] = -np.arange(rows)
    first = Places(np.zeros(rows, int), values.shape)
    places = Places(picked, values.shape, first)
    for tile in (laid_out(values), within(values)):
        assert np.array_equal(tile, values)
        assert np.array_equal(places.of(tile), values[np.arange(rows), picked])
        assert np.array_equal(first.of(tile), values[:, 0])
        places.put(tile, -np.arange(rows))
        assert np.array_equal(tile, expected)


@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0, np.nan])
def test_one_scale_for_all_rows_is_that_of_each(scale):
    """A scale held once for all rows gives the bits of the same scale held for each."""
    values = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    once, each = laid_out(values), laid_out(values)
    scale_rows(once, np.broadcast_to(np.float64(scale), 5))
    scale_rows(each, np.full(5, scale))
    assert once.tobytes() == each.tobytes()
    np.testing.assert_array_equal(once, values * np.float32(scale))


@pytest.mark.parametrize("classes", [1, 3, 64, 65, 2000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_sign_of_a_sum_of_nothing_does_not_depend_on_how_many_rows_there_are(classes, dtype):
    """-0 and -0 are 0, for one row as for several."""
    for rows in (1, 2, 9):
        values = layout.shaped(np.full(rows * classes, -0.0, dtype), rows, classes)
        for sums in (
            layout.row_sums(values),
            layout.weighted_sums(values, np.ones_like(values), np.empty_like(values)),
            layout.weighted_sums(np.full(classes, -0.0, dtype), values + 1, np.empty_like(values)),
        ):
            assert not np.signbit(sums).any(), (rows, sums)
