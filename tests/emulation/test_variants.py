"""The kernels that the engine launches compile for every architecture and spill nothing.

Some are compiled here; that all were, as they are, is read in what `make kernels-all` wrote.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from emulation.all_cubins import REPORT, compiled, made_of
from emulation.variants import ARCHITECTURES, every_variant, selection

VARIANTS = every_variant()
SELECTED = selection(VARIANTS)


def test_the_selection_has_every_pair():
    """And every case and dtype by tiling and architecture; with every source that there is."""
    assert {need for each in SELECTED for need in each.needs} == {
        need for each in VARIANTS for need in each.needs
    }
    assert {each.kernel.source for each in SELECTED} == {"rows.cu", "few.cu", "elements.cu"}
    assert {each.tiling for each in VARIANTS} == {
        "few", "elements", "LANES_PER_ROW", "WARP_PER_ROW", "TWO_READS 512",
        *(f"BLOCK_PER_ROW {threads}" for threads in (128, 256, 512)),
        *(f"CLUSTER_PER_ROW 512 x {blocks}" for blocks in (2, 4, 8)),
    }  # fmt: skip


@pytest.mark.timeout(900)  # a hundred kernels, a second of a processor each where it is idle
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nothing_spills(architecture):
    """What the compiler says of each kernel selected: what it holds is held in registers."""
    kernels = {each.kernel for each in SELECTED if each.architecture == architecture}
    with ThreadPoolExecutor() as compilers:
        cubins = compilers.map(partial(compiled, architecture=architecture), kernels)
        for kernel, cubin in zip(kernels, cubins, strict=True):
            spilled = f"{cubin.registers} registers, {cubin.spill_stores} bytes spilled"
            assert cubin.spill_stores == cubin.spill_loads == 0, f"{kernel}: {spilled}"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_variant_was_compiled(architecture):
    """These very kernels, from this text, and nothing spilled: else `make kernels-all` is due."""
    record = json.loads(REPORT.read_text(encoding="utf-8"))["architectures"][architecture]
    variants = [each for each in VARIANTS if each.architecture == architecture]
    assert record["made_of"] == made_of(variants), "run `make kernels-all`"
    assert record["variants"] == len(variants)
    assert record["spilling"] == []
    assert record["most_spilled_bytes"] == 0


@pytest.mark.parametrize(("dtype", "most"), [("bfloat16", 24), ("float32", 40)])
def test_instructions_leave_time_for_the_bytes(dtype, most):
    """Of each class of a row that is held, by the smaller blocks and the largest."""
    run = 16 // (2 if dtype == "bfloat16" else 4)
    for each in VARIANTS:
        if (each.case, each.dtype, each.layout) != ("plain", dtype, "together"):
            continue
        macros = dict(each.kernel.macros)
        if each.architecture == "sm_90" and "PER_ROW" in each.tiling:
            held = int(macros["RUNS"]) * run
            cubin = compiled(each.kernel, "sm_90")
            assert cubin.instructions <= most * held, f"{each.tiling}: {cubin.instructions}"
