"""Admission counts calls and bytes, and gets them back; a client has a part of them."""

import asyncio

import pytest

from losswire_server.admission import Admission, Room
from losswire_server.errors import Draining, InvalidRequest, Overloaded


def test_bytes_are_held_and_given_back():
    """What does not fit is refused at once, with a delay; what was held is free afterwards."""
    admission = Admission(Room(100))
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
        Admission(Room(100)).take(101)


def test_draining_waits_for_calls_and_takes_no_more():
    """Draining ends when the last call does; new calls are refused meanwhile."""

    async def play():
        admission = Admission(Room(100))
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
        admission = Admission(Room(100))
        admission.enter()
        assert not await admission.drain(0.001)

    asyncio.run(play())


def test_one_client_has_a_share():
    """What is beyond its share is refused; others still have room, and all is given back."""
    admission = Admission(Room(100, requests=8, client_share=0.5))
    greedy, modest = admission.account("greedy"), admission.account("modest")
    give_back = greedy.take(40)
    with pytest.raises(Overloaded, match=r"client's share .* 40 of 50 bytes are taken, 11 more"):
        greedy.take(11)
    few = [greedy.take(1) for _ in range(3)]
    with pytest.raises(Overloaded, match="4 of 4 requests are taken") as caught:
        greedy.take(1)
    assert caught.value.retry_delay_ms > 0
    also = modest.take(50)
    for each in (give_back, also, *few):
        each()
    assert admission.held_bytes == 0
    assert not admission._accounts
    greedy.take(50)()


def test_one_request_may_be_larger_than_a_share():
    """What fits the queue is served, alone of its client."""
    client = Admission(Room(100, client_share=0.1)).account("client")
    give_back = client.take(100)
    give_back()
    client.take(5)
    with pytest.raises(Overloaded, match="client's share"):
        client.take(95)


def test_requests_are_counted():
    """As many as there is room for, of all clients, whatever their size."""
    admission = Admission(Room(100, requests=3))
    taken = [admission.account(client).take(0) for client in range(3)]
    with pytest.raises(Overloaded, match="the queue is full: 3 of 3 requests"):
        admission.account("late").take(0)
    taken.pop()()
    admission.account("late").take(0)


def test_streams_are_counted():
    """Of all clients and of each; one that ends makes room."""
    admission = Admission(Room(100, streams=3, client_share=0.67))
    ends = [admission.account("greedy").open_stream() for _ in range(2)]
    with pytest.raises(Overloaded, match="client's share is full: 2 of 2 streams"):
        admission.account("greedy").open_stream()
    ends.append(admission.account("modest").open_stream())
    with pytest.raises(Overloaded, match="the server is full: 3 of 3 streams"):
        admission.account("late").open_stream()
    for end in ends:
        end()
    assert not admission._accounts
    admission.account("greedy").open_stream()
