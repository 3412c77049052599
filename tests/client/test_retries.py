"""When a call is made again, after what pause, and when not."""

import inspect

import pytest

import losswire
from losswire import _retries
from losswire._calls import Pause, Unary
from losswire._retries import CannotRepeat, Retries, pause_before

STEP = Unary("Compute", b"")


def plan():
    """Makes one call, and returns what it brought."""
    return (yield STEP)


def busy(delay=None):
    error = losswire.ServerBusy("full")
    error.retry_delay = delay
    return error


def gone():
    return losswire.ServerUnavailable("gone")


def pauses_of(retries, failures, begin=plan):
    """Plays a call that fails so, then succeeds; the pauses it made."""
    running, pauses = retries.of(begin), []
    step = next(running)
    for failure in failures:
        assert step is STEP
        step = running.throw(failure)
        assert isinstance(step, Pause)
        assert step.error is failure
        pauses.append(step.seconds)
        step = next(running)
    with pytest.raises(StopIteration) as end:
        running.send("answer")
    assert end.value.value == "answer"
    return pauses


def test_pauses_grow_and_differ():
    """Each pause is up to twice the one before, at least half of that, and no two are alike."""
    pauses = pauses_of(Retries(), [busy() for _ in range(12)])
    for tries, pause in enumerate(pauses):
        grown = min(_retries.LONGEST_PAUSE, _retries.SHORTEST_PAUSE * 2**tries)
        assert grown / 2 <= pause <= grown
    assert len(set(pauses)) == len(pauses)


def test_the_servers_delay_is_waited_for():
    """No retry comes before the server's own delay has passed."""
    assert all(3.0 <= pause_before(tries, 3.0) <= 5.0 for tries in range(1, 40))
    assert min(pauses_of(Retries(), [busy(7.0)] * 3)) >= 7.0


@pytest.mark.parametrize(
    "error",
    [losswire.InvalidInput("bad"), losswire.ServerError("ours"), losswire.DeadlineExceeded("late"),
     losswire.Unauthenticated("who"), losswire.PermissionDenied("no")],
)  # fmt: skip
def test_other_errors_are_the_callers_at_once(error):
    """What another try cannot mend is raised by the first."""
    running = Retries().of(plan)
    next(running)
    with pytest.raises(type(error)) as caught:
        running.throw(error)
    assert caught.value is error


def test_a_server_may_refuse_further_tries():
    """A negative delay means that no other try is wanted, as to gRPC."""
    running = Retries().of(plan)
    next(running)
    with pytest.raises(losswire.ServerBusy):
        running.throw(busy(-0.001))


def test_a_server_that_never_answered_is_given_up_soon():
    """Before its first answer a call has few tries; after it, as many as its deadline allows."""
    retries, running = Retries(), Retries().of(plan)
    next(running)
    for _ in range(_retries.FIRST_TRIES - 1):
        assert isinstance(running.throw(gone()), Pause)
        next(running)
    with pytest.raises(losswire.ServerUnavailable):
        running.throw(gone())
    pauses_of(retries, [])
    assert len(pauses_of(retries, [gone() for _ in range(50)])) == 50


def test_the_budget_ends_and_successes_refill_it():
    """A client in which nothing succeeds stops retrying; each success earns part of one."""
    retries = Retries()
    pauses_of(retries, [])
    running = retries.of(plan)
    next(running)
    for _ in range(int(_retries.RESERVE)):
        running.throw(gone())
        next(running)
    with pytest.raises(losswire.ServerUnavailable):
        running.throw(gone())
    for _ in range(round(1 / _retries.EARNED) + 1):
        assert pauses_of(retries, []) == []
    assert len(pauses_of(retries, [gone()])) == 1
    with pytest.raises(losswire.ServerUnavailable):
        pauses_of(retries, [gone()])


def test_the_budget_is_never_more_than_the_reserve():
    """However much succeeds, no more retries are in hand than at the beginning."""
    retries = Retries()
    for _ in range(100):
        pauses_of(retries, [])
    assert retries._left == _retries.RESERVE


def test_none_are_made_where_none_are_wanted():
    """`retries=False` raises the first failure."""
    running = Retries(are_wanted=False).of(plan)
    next(running)
    with pytest.raises(losswire.ServerUnavailable):
        running.throw(gone())


def test_what_cannot_be_repeated_is_raised():
    """A plan that has written over its input fails with its own error and that one's cause."""
    error, cause = gone(), OSError("the line")

    def ruined():
        yield STEP
        raise CannotRepeat(error) from cause

    running = Retries().of(ruined)
    next(running)
    with pytest.raises(losswire.ServerUnavailable) as caught:
        next(running)
    assert caught.value is error
    assert caught.value.__cause__ is cause


def test_each_try_begins_anew():
    """A plan is made for each try, so that nothing of a failed one is in the next."""
    made = []

    def begin():
        made.append(plan())
        return made[-1]

    pauses_of(Retries(), [gone(), busy()], begin)
    assert len(made) == 3
    assert [inspect.getgeneratorstate(each) for each in made] == ["GEN_CLOSED"] * 3


def test_retries_is_a_bool():
    """Anything else is refused where the client is made."""
    with pytest.raises(losswire.InvalidInput, match="retries: expected True or False, received 3"):
        losswire.Client("localhost:1", retries=3)
