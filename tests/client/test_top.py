"""`losswire top`: figures from two looks at a server, and what it says where there is none."""

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

import losswire
from losswire.cli import app
from losswire.top import Look, Span, look, picture
from monitored import monitored


def buckets(**counts):
    """Samples of a histogram, by its bounds."""
    return [{"labels": {"le": le}, "value": value} for le, value in counts.items()]


@pytest.mark.parametrize(
    ("share", "expected"), [(0.1, 0.2), (0.5, 1.0), (0.75, 2.5), (0.9, 4.0), (0.95, 4.0)]
)
def test_quantiles_of_what_is_new(share, expected):
    """Interpolated within the bucket; what was there before does not count."""
    before = Look(0.0, {"h_bucket": buckets(**{"1.0": 50, "4.0": 50, "+Inf": 90})})
    now = Look(2.0, {"h_bucket": buckets(**{"1.0": 55, "4.0": 59, "+Inf": 100})})
    if share == 0.75:
        expected = 1.0 + 3.0 * (7.5 - 5) / 4
    assert Span(before, now).quantile("h", share) == pytest.approx(expected)
    assert Span(now, now).quantile("h", share) is None


def test_rates_by_label():
    """Per second of the server's own clock."""
    samples = [
        [{"labels": {"status": "OK"}, "value": ok}, {"labels": {"status": "ABORTED"}, "value": 3}]
        for ok in (10, 30)
    ]
    span = Span(Look(5.0, {"n": samples[0]}), Look(9.0, {"n": samples[1]}))
    assert span.rate("n", status="OK") == 5.0
    assert span.rate("n") == 5.0
    assert span.now.total("n") == 33


def test_a_live_server():
    """What was asked between two looks is shown, by method, beside what runs."""
    with monitored() as server, losswire.Client(server.target, transport="stream") as client:
        before = look(server.url)
        client.softmax_cross_entropy(np.zeros((8, 5), np.float32), np.zeros(8, int))
        console = Console(width=120)
        with console.capture() as printed:
            console.print(picture(server.url, Span(before, look(server.url))))
        shown = printed.get()
        assert f"losswire {losswire.__version__} at {server.url}: CPU" in shown
        (line,) = [line for line in shown.splitlines() if "ComputeStream" in line]
        assert float(line.split("│")[2]) > 0
        ran = CliRunner().invoke(app, ["top", server.url, "--interval", "0.1", "--count", "2"])
        assert ran.exit_code == 0
        assert "resident memory" in ran.output


@pytest.mark.parametrize(
    ("url", "status", "words"),
    [
        ("http://localhost:1", 1, "no status page there: "),
        ("localhost:9464", 2, "url: expected http://host:port, received 'localhost:9464'"),
    ],
)
def test_where_there_is_none(url, status, words):
    """One line, and a status."""
    ran = CliRunner().invoke(app, ["top", url])
    assert ran.exit_code == status
    (line,) = ran.stderr.splitlines()
    assert words in line
