"""What the samples say: percentiles, rates, and the JSON that keeps them.

In: `Samples` and the `Load` they come from. Out: a `Report`. Percentiles are latencies that were
seen, never values between two.
"""

from __future__ import annotations

import platform
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from losswire_proto import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from losswire._results import ServerInfo
    from losswire.bench.load import Load, Samples

SCHEMA: Final = 1
"""Of the JSON; one more with each change that a reader of it would notice."""

_PERCENTILES: Final = (50, 90, 99)
_TIMELINE_BINS: Final = 50


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a run, as its JSON has it.

    Attributes:
        schema: version of this form.
        about: versions and machine of the side that sent the load.
        server: what the server says of itself.
        load: what was asked for.
        calls: good replies.
        checked: those held to the right answer.
        seconds: from the first start to the last end of a good call.
        calls_per_second: their rate.
        rows_per_second: the rate of examples.
        gigabytes_per_second: logits up and gradients down, in units of 10^9 bytes.
        latency_ms: `p50`, `p90`, `p99`, `max` and `mean`.
        timeline: calls per second as time went by: `second` of each bin's start, and `rate`.
        errors: failed calls and wrong replies by kind, each with `count` and its first `message`.
    """

    schema: int
    about: Mapping[str, str]
    server: Mapping[str, Any]
    load: Mapping[str, Any]
    calls: int
    checked: int
    seconds: float
    calls_per_second: float
    rows_per_second: float
    gigabytes_per_second: float
    latency_ms: Mapping[str, float]
    timeline: Sequence[Mapping[str, float]]
    errors: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, load: Load, info: ServerInfo, samples: Samples) -> Report:
        """Makes the sums."""
        starts, latencies = np.asarray(samples.starts), np.asarray(samples.latencies)
        ends = starts + latencies
        seconds = float(ends.max() - starts.min()) if len(starts) else 0.0
        rate = len(starts) / seconds if seconds else 0.0
        problem = load.problems[0]
        return cls(
            schema=SCHEMA,
            about={
                "losswire": __version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
                "machine": platform.machine(),
            },
            server={"version": info.version, "backend": info.backend, "device": info.device},
            load={
                "target": load.connection["target"],
                "transport": load.connection["transport"],
                "loss": problem.loss,
                "shape": list(problem.logits.shape),
                "dtype": problem.logits.dtype.name,
                "problems": len(load.problems),
                "client": load.client,
                "concurrency": load.concurrency,
                "connections": load.connections,
                "requests": load.requests,
                "duration": load.duration,
                "warm_up": load.warm_up,
            },
            calls=len(starts),
            checked=samples.checked,
            seconds=seconds,
            calls_per_second=rate,
            rows_per_second=rate * problem.rows_per_call,
            gigabytes_per_second=rate * problem.bytes_per_call / 1e9,
            latency_ms=latency_ms(latencies),
            timeline=_timeline(ends, seconds),
            errors={
                kind: {"count": count, "message": samples.messages[kind]}
                for kind, count in samples.errors.most_common()
            },
        )

    def as_json(self) -> dict[str, Any]:
        """Plain lists and dictionaries."""
        return asdict(self)


def latency_ms(seconds: Any) -> dict[str, float]:
    """Percentiles, the largest and the mean of latencies in seconds, in ms; {} of none."""
    latencies = np.asarray(seconds, dtype=np.float64) * 1e3
    if not len(latencies):
        return {}
    found = np.percentile(latencies, _PERCENTILES, method="inverted_cdf")
    named = {f"p{p}": float(each) for p, each in zip(_PERCENTILES, found, strict=True)}
    return named | {"max": float(latencies.max()), "mean": float(latencies.mean())}


def _timeline(ends: Any, seconds: float) -> list[dict[str, float]]:
    if not seconds:
        return []
    first = ends.max() - seconds
    counts, edges = np.histogram(ends - first, _TIMELINE_BINS, (0.0, seconds))
    width = seconds / _TIMELINE_BINS
    return [
        {"second": float(edge), "rate": float(count / width)}
        for edge, count in zip(edges[:-1], counts, strict=True)
    ]
