"""The load generator: its truths, its checks, its sums, and short runs of the command."""

import json
import sys
import threading
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from typer.testing import CliRunner

import losswire
from losswire.bench import load as load_module
from losswire.bench.figures import Report, latency_ms
from losswire.bench.load import Budget, Load, Samples, run
from losswire.bench.problem import Problem, WrongResult, parse_shape
from losswire.cli import app
from losswire_proto.losses import LOSSES
from losswire_server import LocalServer
from pem import Authority


def bench(*arguments):
    """The command with a tiny problem."""
    return CliRunner().invoke(app, ["bench", "--shape", "4x5", *arguments])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("loss", LOSSES)
def test_right_answers_pass(client, loss, dtype):
    """Every loss of the contract can be asked for, and what the server answers is found right."""
    for shape in ((2, 3, 5), (20, 1, 300), (3, 2, 1)):
        problem = Problem.make(loss, shape, dtype)
        problem.check(problem.call(client))


@pytest.mark.parametrize("loss", LOSSES)
def test_answers_are_those_of_another_row(client, loss):
    """Rows that have changed places are found out, in losses and in gradients."""
    problem = Problem.make(loss, (8, 4, 7), "float32")
    result = problem.call(client)
    if isinstance(result, np.ndarray):
        with pytest.raises(WrongResult, match=f"{loss}: gradient of row 0"):
            problem.check(result[::-1])
        return
    with pytest.raises(WrongResult, match=f"{loss}: gradient of row 0"):
        problem.check(replace(result, grad_logits=result.grad_logits[::-1]))
    with pytest.raises(WrongResult, match=f"{loss}: per_example of row 0"):
        problem.check(replace(result, per_example=result.per_example[::-1]))


@pytest.mark.parametrize("factor", [1 + 1e-4, np.nan, 0.0])
def test_answers_that_are_off(client, factor):
    """A gradient that is off by 1e-4, not a number, or zero is found out."""
    problem = Problem.make("softmax_cross_entropy", (16, 50), "float32")
    result = problem.call(client)
    with pytest.raises(WrongResult, match="gradient"):
        problem.check(replace(result, grad_logits=result.grad_logits * np.float32(factor)))


def test_others_may_be_further_off(client):
    """So many times as far as is said, in their gradients; never in losses, which are float32."""
    problem = Problem.make("softmax_cross_entropy", (16, 50), "bfloat16")
    right = problem.call(client)
    further = replace(right, grad_logits=right.grad_logits * ml_dtypes.bfloat16(1.0625))
    with pytest.raises(WrongResult, match="gradient"):
        problem.check(further)
    problem.check(further, leeway=8)
    with pytest.raises(WrongResult, match="gradient"):
        problem.check(replace(right, grad_logits=right.grad_logits[::-1]), leeway=8)
    with pytest.raises(WrongResult, match="per_example"):
        problem.check(replace(right, per_example=right.per_example * 1.0001), leeway=8)


def test_an_answer_without_gradient(client):
    """A gradient that is missing or of another dtype is found out."""
    problem = Problem.make("softmax_cross_entropy", (4, 5), "bfloat16")
    result = problem.call(client)
    for gradient in (None, result.grad_logits.astype(np.float32), result.grad_logits[:2]):
        with pytest.raises(WrongResult, match="no gradient in the shape and dtype"):
            problem.check(replace(result, grad_logits=gradient))
    assert result.grad_logits.dtype == ml_dtypes.bfloat16


def test_callers_ask_different_things(client, monkeypatch):
    """There are as many problems as callers, or as memory allows; one's answer is not another's."""
    first, second, third = Problem.several("softmax_cross_entropy", (4, 5), "float32", 3)
    with pytest.raises(WrongResult):
        second.check(first.call(client))
    third.check(third.call(client))
    monkeypatch.setattr("losswire.bench.problem._PROBLEM_BYTES", 2 * first.logits.nbytes)
    assert len(Problem.several("softmax_cross_entropy", (4, 5), "float32", 3)) == 2
    assert len(Problem.several("softmax_cross_entropy", (8, 25), "float32", 3)) == 1


def test_percentiles_by_hand():
    """Percentiles are the nearest ranks, and of one latency all are that one."""
    assert latency_ms([0.001 * n for n in range(1, 101)]) == pytest.approx(
        {"p50": 50.0, "p90": 90.0, "p99": 99.0, "max": 100.0, "mean": 50.5}
    )
    assert latency_ms([0.004, 0.001, 0.002]) == pytest.approx(
        {"p50": 2.0, "p90": 4.0, "p99": 4.0, "max": 4.0, "mean": 7 / 3}
    )
    assert latency_ms([0.002]) == dict.fromkeys(("p50", "p90", "p99", "max", "mean"), 2.0)
    assert latency_ms([]) == {}


def test_rates_by_hand(client):
    """Calls, rows and bytes per second are those of hand-made samples, over all their time."""
    problem = Problem.make("softmax_cross_entropy", (3, 500), "float64")
    samples = Samples(checked=1)
    samples.starts.extend([10.0, 10.5, 11.0])
    samples.latencies.extend([0.5, 1.5, 0.25])
    load = Load([problem], {"target": "here", "transport": "inline"}, requests=3)
    report = Report.of(load, client.server_info(), samples)
    assert report.seconds == 2.0  # from 10 to 10.5 + 1.5
    assert report.calls_per_second == 1.5
    assert report.rows_per_second == 4.5
    assert report.gigabytes_per_second == pytest.approx(1.5 * 2 * 3 * 500 * 8 / 1e9)
    per_bin = 2.0 / len(report.timeline)
    assert sum(each["rate"] for each in report.timeline) * per_bin == pytest.approx(3)


def test_no_good_call(client):
    """A run in which every call failed has rates of zero and no latencies."""
    problem = Problem.make("softmax", (3, 5), "float32")
    load = Load([problem], {"target": "here", "transport": "inline"}, requests=1)
    samples = Samples()
    samples.failed(losswire.ServerUnavailable("gone"))
    report = Report.of(load, client.server_info(), samples)
    assert (report.calls, report.calls_per_second, report.latency_ms) == (0, 0.0, {})
    assert report.errors == {"ServerUnavailable": {"count": 1, "message": "gone"}}


def test_a_budget_is_spent_once():
    """Eight threads together get exactly the calls that the budget has."""
    budget, taken = Budget(1000, None), []

    def take_all():
        while budget.take():
            taken.append(1)

    threads = [threading.Thread(target=take_all) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == budget.taken == 1000
    assert budget.spent == 1.0


def test_a_budget_of_time():
    """When its time is over, or it is ended, no call is started."""
    assert Budget(None, 1000.0).take()
    assert not Budget(None, 0.0).take()
    ended = Budget(None, None)
    ended.end()
    assert not ended.take()


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_every_call_is_counted(server, kind):
    """Both clients make as many calls as asked, warm-up left out, and each caller's are checked."""
    problems = Problem.several("softmax_cross_entropy", (4, 5), "float32", 3)
    connection = {"target": server.target, "transport": "inline"}
    seen = []
    load = Load(problems, connection, kind, concurrency=5, connections=2, requests=40, warm_up=1)
    samples = run(load, lambda budget: seen.append(budget.taken))
    assert len(samples.starts) == len(samples.latencies) == 40
    assert list(samples.starts) == sorted(samples.starts)
    assert 1 <= samples.checked <= 40
    assert seen[-1] == 40
    assert not samples.errors


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_errors_are_counted_by_kind(server, kind, monkeypatch):
    """Failed calls and wrong replies are counted, by kind, and the run goes on to its end."""
    monkeypatch.setattr(load_module, "_PAUSE_SECONDS", 0.0)
    problem = Problem.make("softmax_cross_entropy", (4, 5), "float32")
    connection = {"target": server.target, "transport": "inline"}
    refused = replace(problem, arguments=(problem.logits, np.full(4, 7)))
    samples = run(Load([refused], connection, kind, concurrency=2, requests=6), lambda _: None)
    assert samples.errors == {"InvalidInput": 6}
    assert "received 7" in samples.messages["InvalidInput"]
    wrong = replace(
        problem, arguments=(problem.logits + np.float32(problem.logits > 0), *problem.arguments[1:])
    )
    samples = run(Load([wrong], connection, kind, requests=17, warm_up=0), lambda _: None)
    assert samples.errors == {"WrongResult": 2}  # the first and the 17th were checked
    assert len(samples.latencies) == 17


def test_a_run_of_the_command(server, tmp_path):
    """A short run prints rates and percentiles, and writes figures and chart."""
    figures, chart = tmp_path / "deep" / "figures.json", tmp_path / "deep" / "chart.png"
    ran = bench(
        "--target", server.target, "--requests", "30", "--concurrency", "4", "--client", "async",
        "--transport", "inline", "--json", str(figures), "--plot", str(chart),
    )  # fmt: skip
    assert ran.exit_code == 0, ran.output
    assert "GB/s" in ran.output
    assert "p99" in ran.output
    assert chart.read_bytes().startswith(b"\x89PNG")
    report = json.loads(figures.read_text())
    assert set(report) == set(Report.__slots__)
    assert report["schema"] == 1
    assert report["calls"] == 30
    assert report["errors"] == {}
    assert report["server"]["backend"] == "numpy"
    assert report["load"]["shape"] == [4, 5]
    assert report["load"]["target"] == server.target
    latency = report["latency_ms"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]


def test_a_server_with_a_certificate_of_an_authority_of_its_own(tmp_path):
    """`--ca` says whom to trust, in every connection; without it no call is made."""
    authority = Authority(tmp_path)
    with LocalServer(engine="numpy", **authority.write_server()) as server:
        arguments = "--target", server.target, "--requests", "3"
        ran = bench(*arguments, "--ca", str(authority.file))
        assert ran.exit_code == 0, ran.output
        assert " of 3 replies" in ran.output
        assert bench(*arguments, "--tls", "--timeout", "2").exit_code == 2


def test_calls_that_fail_are_status_1(server, monkeypatch):
    """A run with errors says how many of which kind, and ends with status 1."""

    def refuse(_self, _result):
        raise WrongResult("not at all")

    monkeypatch.setattr(sys.modules["losswire.bench.command"], "_checked", fake_check)
    monkeypatch.setattr(Problem, "check", refuse)
    ran = bench("--target", server.target, "--requests", "2")
    assert ran.exit_code == 1
    assert "1 x WrongResult: not at all" in ran.output


def fake_check(connection, _problem):
    """The first check, passed unseen."""
    with losswire.Client(connection["target"]) as client:
        return client.target, client.server_info()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--target", "127.0.0.1:1"], "127.0.0.1:1: "),
        (["--shape", "8by3"], "shape: expected sizes like 8192x1000, received '8by3'"),
        (["--shape", "0x3"], "shape: expected sizes >= 1, received (0, 3)"),
        (["--loss", "sequence_loss"], "shape: expected batch x time x classes"),
        (["--loss", "hinge"], "loss: expected one of softmax_cross_entropy,"),
        (["--dtype", "int8"], "dtype: expected one of float16,"),
        (["--transport", "pigeon"], "transport: expected one of 'auto'"),
        (["--client", "slow"], "client: expected 'sync' or 'async', received 'slow'"),
        (["--duration", "-1"], "duration: expected seconds > 0, received -1.0"),
        (["--timeout", "0"], "timeout: expected a finite number of seconds > 0"),
    ],
)
def test_what_cannot_run_is_one_line(arguments, complaint):
    """An unreachable server or a wrong argument is one line on standard error and status 2."""
    ran = bench(*arguments)
    assert ran.exit_code == 2
    assert ran.stderr.startswith(f"losswire bench: {complaint}")
    assert ran.stderr.count("\n") == 1


def test_shapes():
    """Sizes stand with an x between them."""
    assert parse_shape("8192x1000") == (8192, 1000)
    assert parse_shape("2X3x4") == (2, 3, 4)
    assert parse_shape("7") == (7,)
