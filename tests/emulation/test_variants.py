"""The kernels that the engine launches compile for every architecture and spill nothing."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from emulation.all_cubins import compiled
from emulation.variants import ARCHITECTURES, every_variant, selection

SPILLED = 8
"""Bytes that a thread may put aside where it has all 128 registers that blocks of 512 leave it,
around calls and addresses, in the variants selected; `docs/kernels.md` tells of the others."""

VARIANTS = every_variant()
SELECTED = selection(VARIANTS)


def test_the_selection_has_every_pair():
    """And every case and dtype by tiling and architecture; with every source that there is."""
    assert {need for each in SELECTED for need in each.needs} == {
        need for each in VARIANTS for need in each.needs
    }
    assert {each.kernel.source for each in SELECTED} == {"rows.cu", "few.cu", "elements.cu"}
    assert {each.tiling for each in VARIANTS} == {
        "few", "elements", "WARP_PER_ROW", "TWO_READS 512",
        *(f"BLOCK_PER_ROW {threads}" for threads in (128, 256, 512)),
        *(f"CLUSTER_PER_ROW 512 x {blocks}" for blocks in (2, 4, 8)),
    }  # fmt: skip


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nothing_spills(architecture):
    """What the compiler says of each kernel selected: what it holds is held in registers."""
    kernels = {each.kernel for each in SELECTED if each.architecture == architecture}
    with ThreadPoolExecutor() as compilers:
        cubins = compilers.map(partial(compiled, architecture=architecture), kernels)
        for kernel, cubin in zip(kernels, cubins, strict=True):
            spilled = f"{cubin.registers} registers, {cubin.spill_stores} bytes spilled"
            assert cubin.spill_stores <= (SPILLED if cubin.registers == 128 else 0), (
                f"{kernel}: {spilled}"
            )
