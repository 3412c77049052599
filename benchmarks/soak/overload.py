"""Ten times what a server can do: it goes on doing what it can, and says no to the rest at once.

The most that the server answers is found first, by callers that each wait for their answer. Then
come ten times as many calls, or ten times as many callers. Server and clients have processors of
their own, where there are two: otherwise the clients' work would be taken for the server's.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from benchmarks.processes import resident_bytes
from benchmarks.soak.crew import started
from benchmarks.soak.watched import WatchedServer

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Mapping, Sequence

_TIMES: Final = 10
_PROCESSES: Final = 2
_TURNS: Final = 4
_WARM_UP: Final = 1.25
"""So many times the callers come before the turns. A server keeps the memory that it once needed:
how much that is for those who wait at the same time, whose calls lie in it now in this order and
now in that, would still be a matter of chance after the first turn."""
_CALLERS: Final = (2, 4, 8, 16)
"""Together, while the peak is looked for: one trial for each turn."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """A server and what is asked of it.

    Attributes:
        name: for the eye.
        transport: path of the calls.
        shape: of their logits.
        settings: of the server.
        more: whether there are more calls, or more callers who wait for their answers.
        held: requests that the server takes at the same time; None for all that come.
    """

    name: str
    transport: str
    shape: str
    settings: Mapping[str, Any]
    more: Literal["calls", "callers"]
    held: int | None


SCENARIOS: Final = (
    Scenario(
        "ten times the calls, a short queue",
        "shared",
        "4096x32000",
        {"queue_requests": 16},
        "calls",
        held=16,
    ),
    Scenario(
        "ten times the callers, the queue as it comes",
        "inline",
        "64x1000",
        {},
        "callers",
        held=None,
    ),
)


@dataclass(slots=True)
class Measured:
    """What came of a measuring.

    Attributes:
        seconds: it took.
        latencies: of right answers, in seconds.
        others: calls that brought none, by error.
    """

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)

    def add(self, other: Measured) -> None:
        """Counts another measuring of the same kind."""
        self.seconds += other.seconds
        self.latencies += other.latencies
        self.others += other.others

    @property
    def calls(self) -> int:
        """All that were made."""
        return len(self.latencies) + self.others.total()

    @property
    def rate(self) -> float:
        """Right answers in time, a second."""
        return len(self.latencies) / self.seconds

    def quantile(self, part: float) -> float:
        """Of the seconds of right answers."""
        if len(self.latencies) < 2:
            return float("inf")
        return statistics.quantiles(self.latencies, n=1000)[round(part * 1000) - 1]


def run(
    scenario: Scenario, seconds: float, watch: Callable[[int], object], shape: str | None = None
) -> dict[str, Any]:
    """Looks for the peak, then has the server at it and overloaded in turns.

    In turns, so that whatever else the machine does meanwhile befalls both. Memory, resident and
    in use, is held to what it is after the first; what is in use is looked at when the callers have
    hung up, since of each connection gRPC keeps buffers, now of this size and now of that.

    Args:
        scenario: what to ask for.
        seconds: that the whole may take; of which the server is overloaded for two thirds.
        watch: is told how many calls have been made.
        shape: of the logits, in the place of the scenario's.

    Returns:
        The figures, for the JSON.
    """
    servers, clients = _processors()
    trial, at_peak, overloaded = (seconds * part / _TURNS for part in (1 / 6, 1 / 6, 2 / 3))
    with ExitStack() as stack:
        with _on(servers):
            settings = {"engine": "numpy", "threads": len(servers), **scenario.settings}
            server = stack.enter_context(WatchedServer(**settings))
        with _on(clients):
            load = stack.enter_context(_processes(server.target, scenario, shape or scenario.shape))
        trials = {callers: _measure(load, "callers", callers, trial) for callers in _CALLERS}
        callers = max(trials, key=lambda each: trials[each].rate)
        if scenario.more == "callers":
            _measure(load, "callers", round(_WARM_UP * _TIMES * callers), trial)
        peak, over, memory, in_use = Measured(), Measured(), [], []
        for _ in range(_TURNS):
            peak.add(_measure(load, "callers", callers, at_peak))
            if scenario.more == "calls":
                over.add(_measure(load, "rate", _TIMES * peak.rate, overloaded))
            else:
                over.add(_measure(load, "callers", _TIMES * callers, overloaded))
            memory.append(resident_bytes(server.pid))
            _ask(load, {"connected": False})
            in_use.append(server.in_use())
            _ask(load, {"connected": True})
            watch(over.calls)
    held = scenario.held or _TIMES * callers
    return {
        "more": scenario.more,
        "peak_callers": callers,
        "peak_per_second": peak.rate,
        "peak_p99_seconds": peak.quantile(0.99),
        "seconds_overloaded": over.seconds,
        "offered_per_second": over.calls / over.seconds,
        "goodput_per_second": over.rate,
        "goodput_ratio": over.rate / peak.rate,
        "right": len(over.latencies),
        "others": dict(over.others),
        "wrong": over.others["wrong"] + peak.others["wrong"],
        "p50_seconds": over.quantile(0.5),
        "p99_seconds": over.quantile(0.99),
        # Twice what those who are let in have to wait for: each other.
        "p99_bound_seconds": 2 * held / peak.rate,
        "resident_bytes": memory,
        "growth": memory[-1] / memory[0] - 1,
        "in_use": [asdict(each) for each in in_use],
        "drift": in_use[-1].drift(in_use[0]),
    }


def _measure(
    load: Sequence[subprocess.Popen[str]], unit: str, amount: float, seconds: float
) -> Measured:
    """Has all processes measure at the same time."""
    begin = time.perf_counter()
    answers = _ask(load, {unit: amount / len(load), "seconds": seconds})
    measured = Measured(time.perf_counter() - begin)
    for answer in answers:
        told = json.loads(answer)
        measured.latencies += told["latencies"]
        measured.others.update(told["others"])
    return measured


def _ask(load: Sequence[subprocess.Popen[str]], what: Mapping[str, float]) -> list[str]:
    """Has all processes do something at the same time; what each answers."""
    for process in load:
        assert process.stdin is not None  # noqa: S101 -- for the type checker
        process.stdin.write(json.dumps(what) + "\n")
        process.stdin.flush()
    return [_line(process) for process in load]


@contextmanager
def _processes(
    target: str, scenario: Scenario, shape: str
) -> Iterator[list[subprocess.Popen[str]]]:
    """Client processes that are ready."""
    load = [started("load", target, scenario.transport, shape) for _ in range(_PROCESSES)]
    try:
        for process in load:
            _line(process)
        yield load
    finally:
        for process in load:
            process.communicate()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None  # noqa: S101 -- for the type checker
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("a client process ended by itself")
    return line


def _processors() -> tuple[set[int], set[int]]:
    """For the server, and for its clients; all for both where there is only one."""
    every = sorted(os.sched_getaffinity(0))
    half = len(every) // 2
    return (set(every[:half]), set(every[half:])) if half else (set(every), set(every))


@contextmanager
def _on(processors: set[int]) -> Iterator[None]:
    """What is started meanwhile runs on these processors."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
