"""Whether small requests wait for others."""

from losswire_server.company import ENOUGH, Company


def after(*batches):
    company = Company()
    for requests in batches:
        company.note(requests)
    return company


def test_who_was_alone_does_not_wait():
    """The first request, and every one after a batch of one, leaves at once."""
    assert after().is_there(1)
    assert after(7, 1).is_there(1)


def test_who_had_company_waits_for_as_many():
    """A batch is complete when it has as many as the one before it."""
    company = after(5)
    assert not company.is_there(4)
    assert company.is_there(5)


def test_nobody_waits_for_more_than_enough():
    """Beyond so many requests, more gain nothing."""
    assert after(1000).is_there(ENOUGH)


def test_the_largest_of_the_last_is_waited_for():
    """Of eight batches that had all they waited for."""
    company = after(2, 2, 5, *[5] * 7)
    assert not company.is_there(4)
    assert after(3, 5, *[5] * 8).is_there(5)


def test_who_waited_in_vain_is_believed():
    """Where fewer came than were waited for, the next batch waits for those few."""
    company = after(7, 7, 7, 3)
    assert not company.is_there(2)
    assert company.is_there(3)
    company.note(1)
    assert company.is_there(1)
