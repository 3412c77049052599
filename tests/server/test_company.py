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


def test_one_small_batch_says_little():
    """As many are waited for as the largest of the last eight had."""
    company = after(5, 2, 2, 3, 2, 2, 2, 2)
    assert not company.is_there(4)
    company.note(2)
    assert not company.is_there(2)
    assert company.is_there(3)
