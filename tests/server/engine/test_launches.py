"""The table of thresholds in `docs/kernels.md` is what the launches are planned by."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from emulation import variants
from emulation.kernels import HOPPER
from losswire_proto.dtypes import FLOATS
from losswire_proto.losses import LossCall, SoftmaxCrossEntropy
from losswire_server.engine import launches, tilings
from losswire_server.requests import LossRequest

PAGE = Path(__file__).parents[3] / "docs" / "kernels.md"
WHO = {
    "THREAD_PER_ROW": "a thread",
    "LANES_PER_ROW": "8 lanes",
    "WARP_PER_ROW": "a warp",
    "TWO_READS": "two reads",
}
BEYOND = 1 << 30


def thresholds():
    """Rows of the table: classes, classes where half fits, who, threads, blocks, what set it."""
    section = PAGE.read_text().split("## Thresholds")[1].split("\n## ")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if re.match(r"\| (\d|beyond)", line)
    ]
    return [
        (
            *(BEYOND if cell == "beyond" else int(cell.replace(",", "")) for cell in row[:2]),
            row[2],
            *(int(re.match(r"\d*", cell)[0] or 1) for cell in row[3:5]),
            row[5],
        )
        for row in rows
    ]


def chosen(classes, dtype, labels="ids", **options):
    """Who computes rows of so many classes, by how many threads and blocks."""
    logits = np.broadcast_to(np.zeros((), dtype), (2, classes))
    given = np.zeros(2, np.int64) if labels == "ids" else logits
    call = LossCall(SoftmaxCrossEntropy(**options), grad_logits=True)
    request = LossRequest(call, logits, 1, given, labels)
    tiling = next(tilings.tilings_of(request, HOPPER))
    kinds = {1: "a block"}
    who = WHO.get(tiling.name) or kinds.get(tiling.cluster, "a cluster")
    return who, tiling.threads, tiling.cluster


@pytest.mark.parametrize(
    ("column", "asked"),
    [
        (0, {"dtype": "float32"}),
        (0, {"dtype": "float16"}),
        (1, {"dtype": "float32", "labels": "distribution"}),
        (1, {"dtype": "float64"}),
        (1, {"dtype": "float32", "softcap": 2.0}),
    ],
    ids=str,
)
def test_thresholds_are_those_of_the_page(column, asked):
    """At each number of classes what its line says, and at one more what the next line says."""
    table = thresholds()
    assert len(table) == len(tilings.TILINGS) + 2
    for row, after in itertools.pairwise(table):
        assert chosen(row[column], **asked) == row[2:5]
        assert chosen(row[column] + 1, **asked) == after[2:5]


def test_the_page_says_what_set_each():
    """A measurement, or that there is none yet."""
    for *_, reason in thresholds():
        assert re.search("counted|measured|what is left", reason)


def test_the_first_of_what_could_is_what_does():
    """Each that could compute a row has room for it; the last takes any."""
    logits = np.broadcast_to(np.float32(0), (2, 20_000))
    request = LossRequest(LossCall(grad_logits=True), logits, 1, np.zeros(2, np.int64), "ids")
    names = [
        (each.name, each.threads, each.cluster) for each in tilings.tilings_of(request, HOPPER)
    ]
    assert names == [
        ("BLOCK_PER_ROW", 512, 1),
        ("BLOCK_PER_ROW", 512, 2),
        ("BLOCK_PER_ROW", 512, 4),
        ("BLOCK_PER_ROW", 512, 8),
        ("TWO_READS", 512, 1),
    ]
    launch = launches.plan(request, 2, HOPPER, is_strided=False)
    assert (launch.block, launch.cluster) == (512, 1)


@pytest.mark.parametrize(
    ("capability", "multiprocessors", "blocks"),
    [((9, 0), 132, [2, 4, 8]), ((9, 0), 8, [2, 4, 8]), ((9, 0), 7, [2, 4]), ((9, 0), 1, []),
     ((8, 9), 128, [])],
)  # fmt: skip
def test_a_row_is_shared_by_no_more_blocks_than_can_run(capability, multiprocessors, blocks):
    """Each block of a cluster takes a multiprocessor, of which a slice of a GPU may have few."""
    logits = np.broadcast_to(np.float32(0), (2, 20_000))
    request = LossRequest(LossCall(grad_logits=True), logits, 1, np.zeros(2, np.int64), "ids")
    found = tilings.tilings_of(request, tilings.Traits(capability, multiprocessors))
    assert [each.cluster for each in found if each.cluster > 1] == blocks


def test_no_kernel_wants_more_shared_memory_than_every_device_gives():
    """More would have to be asked for, kernel by kernel, and is not there everywhere."""
    most = 0
    sizes = (*range(1, 65), *(1 << power for power in range(7, 20)))
    for case, dtype, classes in itertools.product(variants.CASES, FLOATS, sizes):
        request = variants.request_of(case, dtype, classes)
        for is_strided in (False, True)[: 2 - request.call.loss.is_elementwise]:
            launch = launches.plan(request, 1, HOPPER, is_strided=is_strided)
            most = max(most, launch.shared_bytes)
    assert 32 << 10 < most <= launches.SHARED_BYTES == 48 << 10
