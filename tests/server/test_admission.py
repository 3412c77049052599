"""Admission counts bytes and calls, and gives them back."""

import asyncio

import pytest

from losswire_server.admission import Admission
from losswire_server.errors import Draining, InvalidRequest, Overloaded


def test_bytes_are_held_and_given_back():
    """What does not fit is refused at once, with a delay; what was held is free afterwards."""
    admission = Admission(100)
    with admission.hold(60):
        with pytest.raises(Overloaded, match="60 of 100 bytes are taken, 41 more") as caught:
            admission.hold(41).__enter__()
        assert caught.value.retry_delay_ms > 0
        with admission.hold(40):
            assert admission.held_bytes == 100
    assert admission.held_bytes == 0


def test_bytes_are_given_back_after_a_fault():
    """A request that fails leaves no bytes behind."""
    admission = Admission(100)
    with pytest.raises(RuntimeError), admission.hold(60):
        raise RuntimeError
    assert admission.held_bytes == 0


def test_what_never_fits_is_not_told_to_come_back():
    """A request larger than the whole budget is invalid, not refused for now."""
    with pytest.raises(InvalidRequest, match=r"at most 100 bytes .*received 101 bytes"):
        Admission(100).hold(101).__enter__()


def test_draining_waits_for_calls_and_takes_no_more():
    """Draining ends when the last call does; new calls are refused meanwhile."""

    async def play():
        admission = Admission(100)
        call = admission.call()
        call.__enter__()
        drained = asyncio.ensure_future(admission.drain(60))
        await asyncio.sleep(0)
        with pytest.raises(Draining):
            admission.call().__enter__()
        assert not drained.done()
        call.__exit__(None, None, None)
        assert await drained

    asyncio.run(play())


def test_draining_has_a_limit():
    """A call that does not end is not waited for longer than was allowed."""

    async def play():
        admission = Admission(100)
        with admission.call():
            assert not await admission.drain(0.001)

    asyncio.run(play())
