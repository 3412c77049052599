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
    assert after(1, 1, 1, 1, 1, 1, 1, 1, 1).is_there(1)
    assert after(7, 1).is_there(1)


def test_who_had_company_waits_for_as_many():
    """A batch is complete when it has as many as the last one."""
    company = after(5)
    assert not company.is_there(4)
    assert company.is_there(5)


def test_nobody_waits_for_more_than_enough():
    """Beyond so many requests, more gain nothing."""
    assert after(1000).is_there(ENOUGH)


def test_now_and_then_it_looks_for_more():
    """Every eighth batch that had company waits for more than the last one had."""
    company = after(*[3] * 8)
    assert not company.is_there(3)
    assert company.is_there(ENOUGH)
    assert after(*[3] * 9).is_there(3)
