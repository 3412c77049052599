"""`losswire top`: what a live server does, in the terminal, from its status page.

Status 0: ended by Ctrl-C or after `--count` looks. 1: the server does not answer. 2: bad arguments.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from itertools import count as numbers
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.error import URLError
from urllib.request import urlopen

import typer
from rich import filesize
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_PATIENCE_SECONDS: Final = 5.0
_NOTHING: Final = "-"


@dataclass(frozen=True, slots=True)
class Look:
    """The values of a server at one moment: seconds, and samples by name."""

    time: float
    samples: dict[str, list[dict[str, Any]]]

    def total(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples, of those with the labels."""
        return sum(
            float(sample["value"])
            for sample in self.samples.get(name, [])
            if labels.items() <= sample["labels"].items()
        )

    def values(self, name: str, label: str) -> list[str]:
        """What a label of a metric's samples says, each once."""
        return sorted({sample["labels"][label] for sample in self.samples.get(name, [])})


@dataclass(frozen=True, slots=True)
class Span:
    """What happened between two looks."""

    before: Look
    now: Look

    def added(self, name: str, **labels: str) -> float:
        """What a counter has gained."""
        return self.now.total(name, **labels) - self.before.total(name, **labels)

    def rate(self, name: str, **labels: str) -> float:
        """The same per second."""
        return self.added(name, **labels) / max(self.now.time - self.before.time, 1e-9)

    def quantile(self, name: str, share: float) -> float | None:
        """The value that a share of a histogram's new observations is not above; None of none.

        Interpolated within its bucket; the last bound where it is beyond all.
        """
        bounds = sorted(self.now.values(f"{name}_bucket", "le"), key=float)
        counts = [(float(le), self.added(f"{name}_bucket", le=le)) for le in bounds]
        if not counts or not counts[-1][1]:
            return None
        wanted = share * counts[-1][1]
        for (low, under), (high, upto) in pairwise([(0.0, 0.0), *counts]):
            if upto >= wanted and upto > under:
                if high == float("inf"):
                    return low
                return low + (high - low) * (wanted - under) / (upto - under)
        return None


def register(app: typer.Typer) -> None:
    """Adds `top`."""
    app.command("top")(top)


def top(
    url: Annotated[
        str, typer.Argument(help="The server's status page, as of --metrics-port.")
    ] = "http://localhost:9464",
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 1.0,
    count: Annotated[
        int | None, typer.Option(min=1, help="Looks to take; for ever if not given.")
    ] = None,
) -> None:
    """Show what a live server does: requests, latencies, batches, queue and memory.

    Example: losswire serve --metrics-port 9464, and then: losswire top
    """
    if not url.startswith(("http://", "https://")):
        sys.stderr.write(f"losswire top: url: expected http://host:port, received {url!r}\n")
        raise typer.Exit(2)
    console = Console()
    try:
        before = look(url)
        with Live(console=console, auto_refresh=False) as live:
            for _ in range(count) if count is not None else numbers():
                time.sleep(interval)
                now = look(url)
                live.update(picture(url, Span(before, now)), refresh=True)
                before = now
    except KeyboardInterrupt:
        return
    except (URLError, OSError, ValueError, KeyError) as error:
        reason = getattr(error, "reason", error)
        sys.stderr.write(f"losswire top: {url}: no status page there: {reason}\n")
        raise typer.Exit(1) from error


def look(url: str) -> Look:
    """The values of now."""
    with urlopen(f"{url.rstrip('/')}/status.json", timeout=_PATIENCE_SECONDS) as answer:  # noqa: S310 -- http alone
        values = json.loads(answer.read())
    return Look(float(values["time"]), values["samples"])


def picture(url: str, span: Span) -> Group:
    """Two tables: of the methods, and of the server as a whole."""
    now = span.now
    methods = Table("method", "answered/s", "other/s", "in/s", "out/s", title=_title(url, now))
    for column in methods.columns[1:]:
        column.justify = "right"
    for method in now.values("losswire_requests_total", "method"):
        answered = span.rate("losswire_requests_total", method=method, status="OK")
        other = span.rate("losswire_requests_total", method=method) - answered
        methods.add_row(
            method,
            _count(answered),
            _count(other),
            _bytes(span.rate("losswire_received_bytes_total", method=method)),
            _bytes(span.rate("losswire_sent_bytes_total", method=method)),
        )
    whole = Table("", "", "median", "99%", box=None)
    for column in whole.columns[1:]:
        column.justify = "right"
    batches = span.added("losswire_batch_requests_count")
    requests = span.added("losswire_batch_requests_sum")
    rows: Iterable[tuple[str, str, str | None]] = (
        ("calls", _count(now.total("losswire_calls")), "losswire_call_seconds"),
        ("wait for a batch", "", "losswire_queue_wait_seconds"),
        ("engine, per batch", _share(span), "losswire_engine_seconds"),
        ("requests in a batch", _count(requests / batches) if batches else _NOTHING, None),
        ("rows/s", _count(span.rate("losswire_rows_total")), None),
        ("queue", _bytes(now.total("losswire_queue_bytes")), None),
        ("streams", _bytes(now.total("losswire_stream_window_bytes")), None),
        ("shared memory", _bytes(now.total("losswire_region_bytes")), None),
        ("resident memory", _bytes(now.total("process_resident_memory_bytes")), None),
    )
    for what, value, histogram in rows:
        quantiles = [
            span.quantile(histogram, share) if histogram else None for share in (0.5, 0.99)
        ]
        whole.add_row(what, value, *(_seconds(each) if histogram else "" for each in quantiles))
    return Group(methods, whole)


def _title(url: str, now: Look) -> str:
    labels = now.samples["losswire_server"][0]["labels"]
    return f"losswire {labels['version']} at {url}: {labels['device']}"


def _share(span: Span) -> str:
    return f"{span.rate('losswire_engine_seconds_sum'):.2f} at a time"


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _bytes(value: float) -> str:
    return filesize.decimal(int(value))


def _seconds(value: float | None) -> str:
    if value is None:
        return _NOTHING
    scales: tuple[tuple[float, Callable[[float], str]], ...] = (
        (1e-3, lambda v: f"{1e6 * v:.0f} µs"),
        (1.0, lambda v: f"{1e3 * v:.3g} ms"),
    )
    return next((show(value) for limit, show in scales if value < limit), f"{value:.3g} s")
