"""The table of docs/reliability.md, from the figures of the last long run.

`python -m benchmarks.soak.page` writes it anew, between its two marks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.soak.promises import LEAST_GOODPUT, MOST_GROWTH

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_ROOT: Final = Path(__file__).parents[2]
FIGURES: Final = _ROOT / "benchmarks" / "results" / "soak.json"
FUZZING: Final = FIGURES.with_name("fuzz.json")
PAGE: Final = _ROOT / "docs" / "reliability.md"

BEGIN: Final = "<!-- Written by `python -m benchmarks.soak.page`. -->\n"
END: Final = "<!-- To here. -->\n"


def table(figures: Mapping[str, Any], fuzzing: Mapping[str, Any]) -> str:
    """Promise, how it is tested, what the last long run showed, and the command."""
    about = figures["about"]
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    lines = [
        f"Of commit {about['commit'][:12]}, {about['cores']} cores ({about['processor']}), Python"
        f" {about['python']}, {packages}; {about['seconds'] / 60:.0f} minutes in all.",
        "",
        "| promise | how it is tested | the last long run | command |",
        "| --- | --- | --- | --- |",
    ]
    for promise, test, result, part in _rows(figures):
        lines.append(f"| {promise} | {test} | {result} | `make soak SOAK='--only {part}'` |")
    lines.append(_fuzzing_row(fuzzing))
    broken = "; ".join(figures["broken"]) or "none"
    return "\n".join([*lines, "", f"Promises broken in it: {broken}.", ""])


def _fuzzing_row(fuzzing: Mapping[str, Any]) -> str:
    targets = fuzzing["targets"]
    inputs = ", ".join(f"{name} {each['inputs']:,}" for name, each in targets.items())
    failures = sum(len(each["failures"]) for each in targets.values())
    return (
        "| any bytes get a right result or a status of the contract, and all room is given back |"
        " inputs steered by coverage, in process; results held to a second reading of the message"
        f" ([](fuzzing.md)) | commit {fuzzing['commit']}:"
        f" {sum(each['inputs'] for each in targets.values()):,} inputs ({inputs}); failures:"
        f" {failures} | `make fuzz FUZZ_RUNS={max(each['inputs'] for each in targets.values())}` |"
    )


def _rows(figures: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    faults, soak = figures["faults"], figures["soak"]
    injected = ", ".join(f"{kind} {count:,}" for kind, count in faults["faults"].items())
    restarts = faults["kills"].get("a server", 0)
    clients = sum(faults["kills"].values()) - restarts
    yield (
        "no result is lost or wrong while connections are hurt and both sides are killed",
        "a proxy that does harm, over TCP, a Unix socket and TLS; every path, eight losses, four"
        " dtypes; every reply held to the bit",
        f"{faults['requests']:,} requests; {injected}; {clients} clients and {restarts} servers"
        f" killed; lost: {faults['lost']}, wrong: {faults['wrong']}; {faults['told']} told that"
        " their logits may have been overwritten",
        "faults",
    )
    for name, figure in figures["overload"].items():
        refused = figure["offered_per_second"] - figure["goodput_per_second"]
        yield (
            f"overloaded, a server does at least {LEAST_GOODPUT:g} of its peak, in bounded time and"
            " memory",
            f"{name}; server and clients on processors of their own",
            f"peak {figure['peak_per_second']:.1f}/s; {figure['offered_per_second']:.1f}/s offered"
            f" for {figure['seconds_overloaded']:.0f} s, {refused:.1f}/s refused; goodput"
            f" {figure['goodput_ratio']:.2f} of the peak; 99th percentile"
            f" {figure['p99_seconds']:.2f} s (bound {figure['p99_bound_seconds']:.2f} s); memory"
            f" {figure['growth']:+.1%}, at rest {_drift(figure)}; wrong: {figure['wrong']}",
            "overload",
        )
    memory = ", ".join(
        f"{link} {server['warmed_up']['resident_bytes'] / 2**20:.1f} →"
        f" {server['end']['resident_bytes'] / 2**20:.1f} MiB ({_drift(server)})"
        for link, server in soak["servers"].items()
    )
    leaks = sum(sum(server["leaks"].values()) for server in soak["servers"].values())
    yield (
        f"memory stays within {MOST_GROWTH:.0%}; no file, thread, mapping or region is left",
        "the same traffic, faults and kills of clients; servers after a warm-up and at the end",
        f"{soak['requests']:,} requests, {sum(soak['faults'].values()):,} faults,"
        f" {sum(soak['kills'].values())} clients killed; {memory}; leaks: {leaks}; lost:"
        f" {soak['lost']}, wrong: {soak['wrong']}",
        "soak",
    )


def _drift(server: Mapping[str, Any]) -> str:
    words = {
        "resident_bytes": "resident",
        "heap_bytes": "heap in use",  # where malloc tells
        "python_blocks": "small objects",
    }
    drift = server["drift"]
    return ", ".join(f"{words[name]} {drift[name]:+.2%}" for name in words if name in drift)


def main() -> None:
    """Writes the table into the page."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    shown = table(*(json.loads(path.read_text(encoding="utf-8")) for path in (FIGURES, FUZZING)))
    PAGE.write_text(before + BEGIN + "\n" + shown + "\n" + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
