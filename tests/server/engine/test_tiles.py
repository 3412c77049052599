"""How requests are cut: every row once, in tiles of a size, enough for two threads."""

import itertools

import numpy as np
import pytest

from losswire_proto.losses import LossCall
from losswire_server.engine import tiles
from losswire_server.engine.works import work_of
from losswire_server.requests import LossRequest


def works(*shapes):
    """Requests of logits `[outer, classes, inner]`, as the engine takes them up."""
    for outer, classes, inner in shapes:
        logits = np.broadcast_to(np.float32(0), (outer, classes, inner))
        ids = np.zeros((outer, inner), np.int64)
        yield work_of(LossRequest(LossCall(), logits, 1, ids, "ids"))


@pytest.mark.parametrize("classes", [1, 2, 10, 64, 65, 1000, 128_256, 3_000_000])
def test_every_row_is_in_one_tile(classes):
    """Large requests are cut, small ones share tiles, and all rows are there once, in order."""
    rows = 3 * tiles.TILE_ELEMENTS // classes
    shapes = [(1, 1), (rows + 1, 1), (3, 2), (2, rows // 2 + 1), (rows // 3 + 2, 3), (1, 1)]
    taken_up = list(works(*((outer, classes, inner) for outer, inner in shapes)))
    cut = list(tiles.cut(taken_up))
    for work, (outer, inner) in zip(taken_up, shapes, strict=True):
        pieces = [piece for tile in cut for piece in tile if piece.work is work]
        spans = sorted((piece.span.start, piece.span.stop) for piece in pieces)
        assert spans[0][0] == 0
        assert spans[-1][1] == outer * inner
        assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))
        assert sum(piece.rows for piece in pieces) == outer * inner
    assert max(map(tiles.rows_of, cut)) <= max(1, tiles.TILE_ELEMENTS // classes)


@pytest.mark.parametrize(("rows", "classes"), [(65_536, 10), (8_192, 1_000), (600, 1_000)])
def test_a_large_request_is_work_for_two_threads(rows, classes):
    """What is not small is cut into an even number of tiles of about the same size."""
    cut = list(tiles.cut(list(works((rows, classes, 1)))))
    sizes = list(map(tiles.rows_of, cut))
    assert len(sizes) % 2 == 0
    assert max(sizes) - min(sizes) <= 32


@pytest.mark.parametrize("rows", [8_192, 16_384, 65_536])
def test_no_few_classes_lie_whole_pages_apart(rows):
    """The rows of a tile of few classes are no multiple of a page, whatever those of a request."""
    for tile in tiles.cut(list(works((rows, 64, 1)))):
        assert tiles.rows_of(tile) * 4 % 4096
