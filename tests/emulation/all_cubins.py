"""Every variant of every kernel, compiled for every architecture: `make kernels-all`.

In: `variants.every_variant`. Out: `benchmarks/results/cubins.json`: for each architecture how many
variants there are, the most registers, what spilled, and a digest of what they are made of, by
which `make test` knows whether the record is of the kernels as they are. An architecture is written
when it is complete, beside the others' last results; those of other sources are dropped.
"""

import argparse
import hashlib
import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple
from functools import partial
from pathlib import Path

from cuda.bindings import nvrtc

from emulation.cubins import Cubin, compile_cubin
from emulation.emulator import DEVICE, ROOT
from emulation.variants import ARCHITECTURES, Variant, every_variant
from losswire_server.engine.known_kernels import sources_digest
from losswire_server.engine.launches import COMPILER_OPTIONS, Kernel

REPORT = ROOT / "benchmarks" / "results" / "cubins.json"


def main(arguments=None) -> int:
    """Compiles, writes, prints; 1 where a kernel spills."""
    parser = argparse.ArgumentParser(prog="make kernels-all", description=__doc__)
    parser.add_argument("architectures", nargs="*", default=ARCHITECTURES)
    parser.add_argument("--json", type=Path, default=REPORT)
    asked = parser.parse_args(arguments)
    _, major, minor = nvrtc.nvrtcVersion()
    about = {"sources": sources_digest(), "nvrtc": f"{major}.{minor}"}
    variants = every_variant()
    figures = about | {"architectures": _kept(asked.json, about)}
    for architecture in asked.architectures:
        found = measured([each for each in variants if each.architecture == architecture])
        figures["architectures"][architecture] = found
        asked.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        sys.stdout.write(f"{architecture}: {found}\n")
        sys.stdout.flush()
    return int(any(each["spilling"] for each in figures["architectures"].values()))


def measured(variants: list[Variant]) -> dict:
    """What the compiler says of these, which are of one architecture."""
    started = time.perf_counter()
    by_kernel: dict[Kernel, list[Variant]] = {}
    for variant in variants:
        by_kernel.setdefault(variant.kernel, []).append(variant)
    compile_one = partial(compiled, architecture=variants[0].architecture)
    with ThreadPoolExecutor() as compilers:
        cubins = dict(zip(by_kernel, compilers.map(compile_one, by_kernel), strict=True))
    return {
        "made_of": made_of(variants),
        "variants": len(variants),
        "kernels": len(by_kernel),
        "most_registers": max(cubin.registers for cubin in cubins.values()),
        "most_spilled_bytes": max(cubin.spill_stores for cubin in cubins.values()),
        "spilling": [
            [each.case, each.dtype, each.tiling, each.layout, cubin.registers, cubin.spill_stores]
            for kernel, cubin in cubins.items()
            if cubin.spill_stores or cubin.spill_loads
            for each in by_kernel[kernel]
        ],
        "seconds": round(time.perf_counter() - started, 1),
    }


def made_of(variants: list[Variant]) -> str:
    """The same as long as kernels, their text and the compiler's options are."""
    kernels = sorted({(each.architecture, astuple(each.kernel)) for each in variants})
    all_of_it = json.dumps([sources_digest(), COMPILER_OPTIONS, kernels])
    return hashlib.sha256(all_of_it.encode()).hexdigest()[:16]


def compiled(kernel: Kernel, architecture: str) -> Cubin:
    """One kernel for one architecture."""
    return compile_cubin(DEVICE / kernel.source, dict(kernel.macros), architecture, kernel.entry)


def _kept(path: Path, about: dict) -> dict:
    """Architectures of an earlier report of the same sources and compiler."""
    try:
        earlier = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return earlier["architectures"] if all(earlier[name] == about[name] for name in about) else {}


if __name__ == "__main__":
    sys.exit(main())
