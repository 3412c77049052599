"""ComputeMany: many requests in one call, each with an answer of its own."""

import asyncio

import pytest

from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_proto.v1 import tensor_pb2
from losswire_server import many
from losswire_server.errors import InvalidRequest
from many_run import compute, rows_of, scenario


@scenario()
async def test_each_answer_bears_its_id(call, engine):
    """Requests of one message are computed together and answered by id."""
    call.send((7, 2), (3, 4), (5, 1))
    call.end()
    engine.release(10)
    answers = await call.rest()
    assert {identifier: rows_of(answer) for identifier, answer in answers.items()} == {
        7: 2,
        3: 4,
        5: 1,
    }
    assert engine.batches == [[2, 4, 1]]


@scenario(queue_bytes=1 << 30)
async def test_thousands_in_one_message_are_read_as_there_is_room(call, engine):
    """As if they had come in several: no more are held than ever, and others have their turns."""
    count, most, turns = 5000, 0, 0

    async def look():
        nonlocal most, turns
        while True:
            most, turns = max(most, call.run._held_requests), turns + 1
            await asyncio.sleep(0)

    looking = asyncio.ensure_future(look())
    call.send(*((number, 1) for number in range(count)))
    call.end()
    engine.release(count)
    answers = await call.rest()
    looking.cancel()
    assert all(rows_of(answers[number]) == 1 for number in range(count))
    assert most <= many.HELD_REQUESTS + many.AT_ONCE
    assert turns >= count // many.AT_ONCE


@pytest.mark.parametrize(
    "payload",
    [
        pb.ComputeManyRequest(requests=[pb.ManyRequest(id=n) for n in range(300_000)]),
        pb.ComputeManyRequest(cancelled_ids=[1 << 60] * (1 << 17)),
        pb.ComputeManyRequest(
            requests=[
                pb.ManyRequest(
                    id=1,
                    request=pb.ComputeRequest(
                        logits=tensor_pb2.Tensor(shape=[1 << 60] * (1 << 17))
                    ),
                )
            ]
        ),
    ],
    ids=["requests", "cancelled ids", "a shape"],
)
def test_much_besides_elements_is_refused(payload):
    """From its bytes protobuf would make objects of many times their size."""

    @scenario()
    async def play(call, _engine):
        call.send_bytes(payload.SerializeToString())
        with pytest.raises(InvalidRequest, match="at most 1048576 bytes besides the elements"):
            await call.answer()

    play()


@scenario(queue_bytes=1 << 30)
async def test_large_tensors_are_not_much_besides_elements(call, engine):
    """Several in one message of more than that, and a client's own fields beside them."""
    rows = (1 << 20) // 12
    call.send((1, rows), (2, 3), (3, rows), cancelled=[9] * 100)
    call.end()
    engine.release(10)
    answers = await call.rest()
    assert [rows_of(answers[number]) for number in (1, 2, 3)] == [rows, 3, rows]


@scenario()
async def test_what_is_done_is_answered_while_the_rest_is_not(call, engine):
    """Answers do not wait for each other, nor for the end of the requests."""
    call.send((1, 2))
    first = asyncio.ensure_future(call.answer())
    await engine.entered()
    call.send((2, 3))
    engine.release()
    assert (await first).id == 1
    engine.release()
    assert (await call.answer()).id == 2


@scenario()
async def test_a_bad_request_harms_no_neighbour(call, engine):
    """Each refusal has its own code and text; the good requests beside it are computed."""
    call.send(
        (1, 2),
        (2, 2, {"request": compute(2, largest_id=3)}),
        (3, 2, {"request": pb.ComputeRequest()}),
        (4, 2, {"timeout_ms": 0}),
        (5, 2, {"request": None}),
        (6, 3),
    )
    call.end()
    engine.release(10)
    answers = await call.rest()
    assert rows_of(answers[1]) == 2
    assert rows_of(answers[6]) == 3
    refusals = {i: (answers[i].error.code, answers[i].error.message) for i in (2, 3, 4, 5)}
    assert refusals == {
        2: (3, "labels: expected class ids in [0, 3), received 3 at index (0)"),
        3: (3, "options: expected to be set, received nothing"),
        4: (3, "timeout_ms: expected a number > 0, received 0"),
        5: (3, "request: expected to be set, received nothing"),
    }


@scenario()
async def test_a_fault_of_the_engine_is_one_requests_own(call, engine):
    """A request that the engine fails on gets INTERNAL and an incident; the others are computed."""
    engine.failing = {3}
    call.send((1, 2), (2, 3))
    call.end()
    engine.release(10)
    answers = await call.rest()
    assert rows_of(answers[1]) == 2
    assert answers[2].error.code == 13
    assert "its log has the cause under" in answers[2].error.message


@scenario(queue_bytes=4096)
async def test_a_full_queue_refuses_single_requests(call, engine):
    """What there is no room for gets RESOURCE_EXHAUSTED and a delay; what fits is computed."""
    call.send((1, 100), (2, 100), (3, 5))
    call.end()
    engine.release(10)
    answers = await call.rest()
    assert rows_of(answers[1]) == 100
    assert rows_of(answers[3]) == 5
    error = answers[2].error
    assert (error.code, error.retry_delay_ms) == (8, 50)
    assert "the queue is full" in error.message


@scenario()
async def test_no_more_is_read_than_is_allowed_in_flight(call, engine):
    """Beyond so many unanswered requests the next message is left where it is."""
    full = [(i, 1) for i in range(many.HELD_REQUESTS)]
    call.send(*full)
    call.send((5000, 1))
    first = asyncio.ensure_future(call.answer())
    await engine.entered()
    for _ in range(20):
        await asyncio.sleep(0)
    assert call.taken_messages == 1
    engine.release(10)
    await first
    while call.taken_messages < 2:
        await call.answer()
