"""The comparison in tiny runs: echoes echo, wrong answers are refused, absent rows say so."""

import json
import os
import sys
from contextlib import ExitStack
from dataclasses import replace

import pytest
from benchmarks.contenders import Setting
from benchmarks.loop import Loop
from benchmarks.mosec_client import MosecServer, decode, encode
from benchmarks.processes import cpu_seconds, forget_peak, own_bytes, peak_bytes, resident_bytes
from benchmarks.rows import Row, Table
from benchmarks.turns import Absent, Contender, Measured, in_turns
from rich.console import Console

import losswire
from benchmarks import compare, contenders, echo, frameworks, huge_call, many_calls, single_calls
from losswire import _channel
from losswire.bench.problem import Problem, WrongResult
from losswire_server import runtime
from losswire_server.engine.numpy_engine import NumpyEngine


@pytest.fixture(scope="module")
def setting():
    """One round, no pauses."""
    with Loop() as loop:
        yield Setting(1, loop, settle_seconds=0.0)


@pytest.fixture(scope="module")
def echo_server():
    """A bare echo on a free port."""
    with echo.EchoServer() as running:
        yield running


@pytest.fixture
def frameworkless(monkeypatch):
    """A machine on which no framework and no mosec is installed."""
    for name in ("torch", "jax", "tensorflow", "mosec"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)


@pytest.fixture
def problem():
    """A small one."""
    return Problem.make("softmax_cross_entropy", (16, 5), "float32")


def by_name(table):
    """Rows by name; of those with several ceilings the last."""
    return {row.name: row for row in table.rows}


def test_the_echo_echoes(echo_server, setting):
    """Unary and streamed, by both kinds of client, every byte comes back, in order."""
    problem = Problem.make("softmax_cross_entropy", (300, 1000), "float32")
    with ExitStack() as stack:
        streams = contenders.echo_streams(problem, echo_server.target, setting, stack)
        assert len(streams) == 4  # of 256 KiB and 1 MiB
        unary = contenders.echo_unary(problem, echo_server.target, stack)
        figures = in_turns([*streams, unary], 1, warm_up=0)
    assert all(each.median > 0 for each in figures.values())


def test_the_echo_over_a_unix_socket(tmp_path):
    """The echo serves where it is told to."""
    with echo.EchoServer(f"unix:{tmp_path}/echo") as server, echo.channel(server.target) as channel:
        assert channel.unary_unary(echo.UNARY)(b"one") == b"one"
        assert b"".join(echo.stream(channel, (b"one", b"", b"two"))) == b"onetwo"


def test_an_echo_that_is_not_one():
    """Bytes that are lost or in another order are found out."""
    for received in ((b"a",), (b"b", b"a"), ()):
        with pytest.raises(WrongResult, match="are not the 2 that were sent"):
            echo.check((b"a", b"b"), received)
    echo.check((b"a", b"b"), (b"ab",))


def test_the_echo_has_our_channel_options():
    """What the echo is a ceiling of goes over channels with the same options."""
    others = ("ping", "keepalive", "reconnect", "subchannel")  # nothing that carries bytes
    client = {
        name: value for name, value in _channel._OPTIONS if not any(part in name for part in others)
    }
    assert dict(echo.OPTIONS) == client
    assert echo._FRAME_BYTES == runtime._FRAME_BYTES


def test_a_wrong_engine_is_refused(problem, monkeypatch):
    """An engine that answers wrongly is not measured, and the run says so."""
    right = NumpyEngine.compute

    def wrong(self, requests):
        return [replace(each, grad_logits=-each.grad_logits) for each in right(self, requests)]

    monkeypatch.setattr(NumpyEngine, "compute", wrong)
    with ExitStack() as stack:
        figures = in_turns([contenders.engine(problem, stack)], 1)
    assert figures["engine in process"].is_wrong
    assert "gradient of row 0" in figures["engine in process"].note


def test_a_wrong_framework_is_refused(problem, monkeypatch):
    """A framework whose gradient is zero is not measured."""
    monkeypatch.setitem(
        frameworks.FRAMEWORKS,
        "PyTorch",
        lambda logits, _ids: lambda: (problem.expected_losses, logits * 0),
    )
    figures = in_turns([frameworks.framework("PyTorch", problem)], 1)
    assert figures["PyTorch"].is_wrong


def test_a_wrong_call_is_refused(problem, server, monkeypatch):
    """A call that answers wrongly is not measured."""
    other = Problem.make("softmax_cross_entropy", (16, 5), "float32", seed=1)

    def other_call(asked, client):
        return client.softmax_cross_entropy(other.logits, *asked.arguments[1:])

    monkeypatch.setattr(Problem, "call", other_call)
    with ExitStack() as stack:
        call = contenders.call("call", problem, server.target, "inline", stack)
        assert in_turns([call], 1)["call"].is_wrong


def test_engine_table_without_frameworks(setting, frameworkless):
    """Without frameworks their rows say so, and engine and copy are measured."""
    (table,) = single_calls.engine(setting, [(16, 5)])
    rows = by_name(table)
    for name in frameworks.FRAMEWORKS:
        assert rows[name].measured.note == "not installed"
    assert rows["engine in process"].ratio > 0
    assert rows["engine in process"].ceiling == "copy of the logits"


def test_single_calls(setting, frameworkless):
    """Every table of single calls has its rows; those of paths that are not there say so."""
    same_host = by_name(single_calls.same_host(setting, (16, 5))[0])
    assert same_host["path chosen by the client"].measured.median > 0
    for row in same_host.values():
        assert row.measured.median or row.measured.note in {
            contenders.NOT_THERE, "not installed"
        }  # fmt: skip
    streamed = single_calls.streamed(setting, [(16, 5)])
    assert len(streamed) == 2
    for table in streamed:
        assert by_name(table)["call, one message"].ceiling.endswith(" + engine")
        assert by_name(table)["call, one message"].ratio > 0
    one_shot = by_name(single_calls.one_shot(setting, (4, 5))[0])["call, one message"]
    assert one_shot.verdict in {"PASS", "miss"}


def test_a_ceiling_of_echo_and_engine():
    """One after the other: 2 ms and 3 ms are 5 ms; where one is missing there is no ceiling."""
    figures = {
        "engine in process": Measured((0.003,)),
        "echo": Measured((0.002,)),
        "call": Measured((0.01,)),
    }
    assert single_calls.after_echo("call", figures, "echo", 1).ratio == pytest.approx(2.0)
    figures["echo"] = Measured(note="not there")
    assert single_calls.after_echo("call", figures, "echo", 1).ratio is None


def test_many_calls(setting, frameworkless):
    """Both clients and both echoes have rates, and the server's processor time is counted."""
    (table,) = many_calls.small_calls(setting, (2, 3), in_flight=4, calls=13)
    rows = by_name(table)
    assert rows["synchronous client, threads"].measured.median > 0
    assert rows["asynchronous client, tasks"].measured.median > 0
    assert all("is not installed" in rows[name].measured.note for name in rows if "mosec" in name)
    (table,) = many_calls.server_time(setting, (2, 3), clients=3, calls=7)
    assert all(row.measured.median >= 0 for row in table.rows)


def test_calls_are_shared_out():
    """Every caller makes its share, and together they make all."""
    assert many_calls._shares(13, 4) == [4, 3, 3, 3]


def test_mixed_up_replies_are_refused(setting, server, monkeypatch):
    """A client whose concurrent callers get each other's replies is not measured."""
    problems = many_calls._problems((2, 3), 4)
    monkeypatch.setattr(
        Problem,
        "call",
        lambda _self, client: client.softmax_cross_entropy(*problems[0].arguments),
    )
    with ExitStack() as stack:
        tasks = many_calls._tasks(problems, server.target, setting.loop, stack, 4)
        assert in_turns([tasks], 1)[tasks.name].is_wrong


def test_a_huge_call_is_held_to_the_bit(setting):
    """The server's memory is measured, and the gradient compared with the engine's."""
    (table,) = huge_call.huge(setting, 70e-6, "inline")
    call, memory = table.rows
    assert not table.has_wrong
    assert call.measured.median > 0
    assert memory.ceiling_value == 300e6
    assert memory.measured.median >= 0


def test_a_huge_result_with_one_wrong_bit(client, monkeypatch):
    """One bit that differs is found out, with the block it is in."""
    monkeypatch.setattr(huge_call, "_BLOCK_ROWS", 8)
    logits, ids = huge_call._tensor(20)
    result = client.softmax_cross_entropy(logits, ids)
    assert huge_call._seconds_if_same(logits, ids, result)[1] == ""
    result.grad_logits.view("uint32")[19, 999] ^= 1
    assert huge_call._seconds_if_same(logits, ids, result)[1] == (
        "wrong: grad_logits differs from row 16"
    )


def test_what_a_process_has_used():
    """Processor time only grows, and the peak is not below what is resident after a new start."""
    before = cpu_seconds(os.getpid())
    assert cpu_seconds(os.getpid()) >= before > 0
    forget_peak(os.getpid())
    assert peak_bytes(os.getpid()) > 2**20
    assert resident_bytes(os.getpid()) > own_bytes(os.getpid()) > 2**20


def test_mosec_messages(problem):
    """A request is sizes, logits and ids; a reply is losses and gradient."""
    assert len(encode(problem)) == 8 + 16 * 5 * 4 + 16 * 4
    engine = NumpyEngine()
    result = engine.compute([contenders.engine_request(problem)])[0]
    engine.close()
    reply = result.per_example.tobytes() + result.grad_logits.tobytes()
    problem.check(decode(reply, problem))
    with pytest.raises(WrongResult):
        problem.check(decode(reply[::-1], problem))


def test_mosec_serves_the_loss(setting):
    """Where it is installed, it answers rightly and has a rate."""
    for name in ("mosec", "aiohttp"):
        pytest.importorskip(name, reason="make bench installs it")
    problems = many_calls._problems((2, 3), 4)
    with ExitStack() as stack:
        mosec = many_calls._mosec(problems, setting.loop, stack, 8, 1, 4)
        measured = in_turns([mosec], 1)[mosec.name]
    assert measured.median > 0, measured.note


def test_mosec_that_is_not_installed(frameworkless):
    """Its rows say what is missing."""
    with pytest.raises(Absent, match="mosec is not installed"):
        MosecServer(1, 1)


def test_a_comparison_that_breaks_leaves_the_others(setting, capsys):
    """What was measured before and after is kept, and the reason is told."""

    def broken(_setting):
        raise losswire.ServerUnavailable("gone")

    def good(_setting):
        return [Table("good", [Row("row", Measured((1.0, 2.0)))])]

    tables, failures = compare.run({"broken": broken, "good": good}, setting, Console())
    assert failures == {"broken": "ServerUnavailable: gone"}
    assert [table.title for table in tables["good"]] == ["good"]
    assert "broken broke" in capsys.readouterr().out


def test_the_whole_command(tmp_path, monkeypatch):
    """Figures, chart and exit status: 0 with a target missed, 1 with a wrong answer."""

    def late(_setting):
        target = single_calls.targets.ONE_SHOT_TO_ECHO
        rows = [Row("late", Measured((9.0,)), "s", "echo", 1.0, target)]
        return [Table("late", rows)]

    def wrong(_setting):
        return [Table("wrong", [Row("row", Measured(note="wrong: all", is_wrong=True))])]

    path = tmp_path / "deep" / "figures.json"
    monkeypatch.setattr(compare, "COMPARISONS", {"late": late, "wrong": wrong})
    assert compare.main(["--only", "late", "--json", str(path), "--rounds", "1"]) == 0
    figures = json.loads(path.read_text())
    (row,) = figures["tables"]["late"][0]["rows"]
    assert (row["verdict"], row["ratio"], row["target"]) == ("miss", 9.0, "<= 1.5")
    assert figures["about"]["packages"]["losswire"] == losswire.__version__
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert compare.main(["--json", str(path), "--rounds", "1"]) == 1


def test_contenders_are_made_when_they_are_prepared():
    """Making a contender touches nothing, so that an absent one cannot break a table."""
    for name in frameworks.FRAMEWORKS:
        assert isinstance(frameworks.framework(name, None), Contender)
