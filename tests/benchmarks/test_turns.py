"""Turns, rows and verdicts of the comparison: arithmetic by hand."""

import pytest
from benchmarks.rows import Row, Table, Target, written
from benchmarks.turns import Absent, Contender, Measured, in_turns, seconds

from losswire.bench.problem import WrongResult


def noted(name, log):
    """A contender that writes down its turns and measures their number."""

    def prepare():
        def turn():
            log.append(name)
            return float(len(log))

        return turn

    return Contender(name, prepare)


def refusing(name, error):
    """A contender that does not get ready."""

    def prepare():
        raise error

    return Contender(name, prepare)


def test_everyone_has_a_turn_each_round():
    """Rounds interleave, each starts with the next contender, and the warm-up does not count."""
    log = []
    figures = in_turns([noted(name, log) for name in "abc"], 3, warm_up=1)
    assert "".join(log) == "cab" + "abc" + "bca" + "cab"
    assert figures["a"].values == (4.0, 9.0, 11.0)
    assert list(figures) == ["a", "b", "c"]


def test_a_turn_of_several_calls_is_their_median():
    """All in a row, before anybody else has a turn."""
    log = []
    figures = in_turns([noted(name, log) for name in "ab"], 1, warm_up=0, calls=3)
    assert "".join(log) == "aaabbb"
    assert (figures["a"].values, figures["b"].values) == ((2.0,), (5.0,))


def test_those_that_are_absent_or_wrong_leave_the_others():
    """A contender that is not there or answers wrongly gets a note, and no turn."""
    log = []
    figures = in_turns(
        [
            refusing("missing", Absent("not installed")),
            refusing("liar", WrongResult("2 is not 3")),
            noted("a", log),
        ],
        2,
    )
    assert figures["missing"] == Measured(note="not installed")
    assert figures["liar"] == Measured(note="wrong: 2 is not 3", is_wrong=True)
    assert figures["missing"].median is figures["liar"].quartiles is None
    assert len(figures["a"].values) == 2
    assert Table("t", [Row("liar", figures["liar"])]).has_wrong
    assert not Table("t", [Row("missing", figures["missing"])]).has_wrong


def test_median_and_quartiles_by_hand():
    """1 to 5 in any order have the median 3 and the quartiles 2 and 4."""
    measured = Measured((5.0, 1.0, 4.0, 2.0, 3.0))
    assert measured.median == 3.0
    assert measured.quartiles == (2.0, 4.0)
    assert Measured((7.0,)).quartiles == (7.0, 7.0)


def test_what_comes_before_is_not_timed():
    """Preparations of a turn are made each time, before the call."""
    log = []
    turn = seconds(lambda: log.append("call"), lambda: log.append("before"))
    assert turn() >= 0
    assert turn() >= 0
    assert log == ["before", "call"] * 2


@pytest.mark.parametrize(
    ("relation", "ceiling", "ratio", "verdict"),
    [("<=", 2.0, 1.5, "PASS"), ("<=", 4.0, 0.75, "PASS"), ("<=", 1.0, 3.0, "miss"),
     (">=", 1.0, 3.0, "PASS"), (">=", 4.0, 0.75, "miss")],
)  # fmt: skip
def test_verdicts(relation, ceiling, ratio, verdict):
    """A ratio is the median over the ceiling, and is held to its target."""
    row = Row("a", Measured((3.0,)), "s", "b", ceiling, Target(relation, 1.5), 6 * 10**9)
    assert row.ratio == ratio
    assert row.verdict == verdict
    assert row.gigabytes_per_second == 2.0


def test_rows_without_figures():
    """A row that was not measured has no ratio, no verdict and no rate, and keeps its note."""
    row = Row("a", Measured(note="not installed"), "s", "b", 1.0, Target("<=", 1.0), 10)
    assert row.as_json()["note"] == "not installed"
    assert row.as_json()["ratio"] is row.gigabytes_per_second is None
    assert row.verdict == ""


def test_values_for_the_eye():
    """Times, sizes and rates are written in units that fit them."""
    assert written(0.0123, "s") == "12.3 ms"
    assert written(42e-6, "s") == "42 µs"
    assert written(3 * 2**20, "bytes") == "3 MiB"
    assert written(12345.6, "1/s") == "12,346/s"
