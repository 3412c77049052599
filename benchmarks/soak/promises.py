"""What a long run has to show, and what of it was broken.

In: the figures of a run. Out: a line for each promise that does not hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LEAST_GOODPUT: Final = 0.9
"""Of the peak, at ten times what the server can do."""

MOST_GROWTH: Final = 0.02
"""Of a server's memory, resident and in use, from after the warm-up to the end."""


def broken(figures: Mapping[str, Any]) -> list[str]:
    """The promises that were broken; a part that was not run breaks none."""
    lines: list[str] = []
    for part in ("faults", "soak"):
        if part in figures:
            lines.extend(f"{part}: {line}" for line in _of_traffic(figures[part]))
    for name, figure in figures.get("overload", {}).items():
        lines.extend(f"overload, {name}: {line}" for line in _of_overload(figure))
    return lines


def _of_traffic(figures: Mapping[str, Any]) -> Iterator[str]:
    for outcome in ("lost", "wrong", "incidents"):
        if figures[outcome]:
            told = [each for each in figures["messages"] if f", {outcome}: " in each]
            yield f"{figures[outcome]} {outcome}{''.join(f'; {each}' for each in told[:3])}"
    if not figures["right"]:
        yield "no right answer at all"
    yield from (f"no fault of kind {kind}" for kind, n in figures["faults"].items() if not n)
    for link, server in figures.get("servers", {}).items():
        yield from (f"{link}: {n} {what} leaked" for what, n in server["leaks"].items())
        yield from (f"{link}: {line}" for line in _of_use(server["drift"]))


def _of_overload(figures: Mapping[str, Any]) -> Iterator[str]:
    if figures["wrong"]:
        yield f"{figures['wrong']} wrong"
    if figures["goodput_ratio"] < LEAST_GOODPUT:
        yield f"goodput is {figures['goodput_ratio']:.2f} of the peak"
    if figures["p99_seconds"] > figures["p99_bound_seconds"]:
        yield f"99th percentile {figures['p99_seconds']:.2f} s"
    if figures["growth"] > MOST_GROWTH:
        yield f"memory grew by {figures['growth']:.1%}"
    yield from _of_use(figures["drift"])


def _of_use(drift: Mapping[str, float]) -> Iterator[str]:
    """Nothing that was in use may have gone either: what leaks could hide in it."""
    for name, part in drift.items():
        if abs(part) > MOST_GROWTH:
            yield f"{name} in use differ by {part:+.1%}"
