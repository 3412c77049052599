"""Admission counts calls and bytes, and gets them back."""

import asyncio

import pytest

from losswire_server.admission import Admission
from losswire_server.errors import Draining, InvalidRequest, Overloaded


def test_bytes_are_held_and_given_back():
    """What does not fit is refused at once, with a delay; what was held is free afterwards."""
    admission = Admission(100)
    give_back = admission.take(60)
    with pytest.raises(Overloaded, match="60 of 100 bytes are taken, 41 more") as caught:
        admission.take(41)
    assert caught.value.retry_delay_ms > 0
    also = admission.take(40)
    assert admission.held_bytes == 100
    give_back()
    assert admission.held_bytes == 40
    also()
    assert admission.held_bytes == 0


def test_what_never_fits_is_not_told_to_come_back():
    """A request larger than the whole budget is invalid, not refused for now."""
    with pytest.raises(InvalidRequest, match=r"at most 100 bytes .*received 101 bytes"):
        Admission(100).take(101)


def test_draining_waits_for_calls_and_takes_no_more():
    """Draining ends when the last call does; new calls are refused meanwhile."""

    async def play():
        admission = Admission(100)
        leave = admission.enter()
        drained = asyncio.ensure_future(admission.drain(60))
        await asyncio.sleep(0)
        with pytest.raises(Draining, match="takes no new calls"):
            admission.enter()
        assert not drained.done()
        leave()
        assert await drained

    asyncio.run(play())


def test_draining_has_a_limit():
    """A call that does not end is not waited for longer than was allowed."""

    async def play():
        admission = Admission(100)
        admission.enter()
        assert not await admission.drain(0.001)

    asyncio.run(play())
