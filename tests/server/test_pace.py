"""How long batches take, and whom that leaves in doubt."""

import itertools

import pytest

from batching import request_of
from losswire_server.groups import Waiting
from losswire_server.pace import Pace

KEY, OTHER = ("a key",), ("another",)


def after(*seconds, nbytes=1000):
    """A pace that knows of batches."""
    pace = Pace()
    for each in seconds:
        pace.note(KEY, nbytes, each)
    return pace


def test_nothing_is_expected_of_the_unknown():
    """A kind that was never computed takes no time, as far as is known."""
    assert Pace().expected(KEY, 1000) == 0.0
    assert after(3.0).expected(OTHER, 1000) == 0.0


def test_one_batch_that_was_held_up_changes_nothing():
    """It is the second slowest that is expected, or the only one."""
    assert after(3.0).expected(KEY, 1000) == 3.0
    assert after(1.0, 100.0, 2.0, 0.001, 1.5).expected(KEY, 1000) == 2.0


def test_what_was_long_ago_is_forgotten():
    """A server that has become slower, or faster, is known for it soon."""
    assert after(*[1.0] * 9, 4.0).expected(KEY, 1000) == 1.0
    assert after(*[1.0] * 9, *[4.0] * 2).expected(KEY, 1000) == 4.0
    assert after(*[1.0] * 9, *[0.1] * 7).expected(KEY, 1000) == 1.0
    assert after(*[1.0] * 9, *[0.1] * 8).expected(KEY, 1000) == 0.1


def test_small_batches_say_nothing_of_large_ones():
    """What a batch takes whatever its size would count a thousandfold otherwise."""
    pace = after(0.001, nbytes=1 << 10)
    assert pace.expected(KEY, (2 << 10) - 1) == 0.001
    assert pace.expected(KEY, 2 << 10) == 0.0
    pace.note(KEY, 2 << 10, 0.002)
    assert pace.expected(KEY, 1 << 10) == 0.001


def test_kinds_that_are_not_computed_any_more_are_forgotten():
    """However many there are, the pace of those at work is known and no more is held."""
    pace = after(*[1.0] * 9)
    pace.note(OTHER, 1000, 7.0)
    for number in range(800):
        pace.note((number,), 1000, 3.0)
        if number % 200 == 0:
            pace.note(KEY, 1000, 0.1)
    assert pace.expected(KEY, 1000) == 1.0, "five of nine"
    assert pace.expected((799,), 1000) == 3.0
    assert pace.expected(OTHER, 1000) == 0.0
    assert len(pace._recent) == 256


@pytest.mark.parametrize(
    ("deadline", "now", "is_doubtful"),
    [
        (None, 1e9, False),
        (100.0, 84.0, False),  # 16 s are left, 15 s are expected
        (100.0, 86.0, True),
        (20.0, 6.0, False),  # half of its time has not passed: there is a fair turn all the same
        (20.0, 9.9, False),
        (20.0, 10.1, True),
    ],
)
def test_who_hardly_will_be_in_time(deadline, now, is_doubtful):
    """Whoever has less than what is expected, once half of the time has passed."""
    request = request_of(5)
    pace = Pace()
    waiting = Waiting(request, None, 0.0, deadline)
    assert not pace.is_doubtful(waiting, now), "nothing is known"
    pace.note(request.form.batch_key, request.nbytes, 15.0)
    assert pace.is_doubtful(waiting, now) is is_doubtful


def test_others_pace_casts_no_doubt():
    """What another loss takes, or ten times the rows, says nothing."""
    request, pace = request_of(5), Pace()
    waiting = Waiting(request, None, 0.0, 20.0)
    for rows, classes in itertools.product((5, 50), (3, 4)):
        other = request_of(rows, classes)
        if (rows, classes) != (5, 3):
            pace.note(other.form.batch_key, other.nbytes, 1e6)
    assert not pace.is_doubtful(waiting, 19.0)
