"""One ComputeMany call without gRPC: messages in, messages out, an engine that is told when."""

import asyncio

import numpy as np
import pytest

from held import HeldEngine
from losswire_proto import tensors
from losswire_proto.losses import LossCall
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_proto.v1 import tensor_pb2
from losswire_proto.wire import encode_call
from losswire_server import many
from losswire_server.admission import Admission, Room
from losswire_server.batcher import Batcher
from losswire_server.errors import Draining, InvalidRequest
from losswire_server.groups import BatchLimits
from losswire_server.many import ManyRun
from losswire_server.reading import RequestReader

LIMITS = BatchLimits(rows=1000, nbytes=1 << 30, wait_us=3600_000_000)


def compute(rows, classes=3, largest_id=0):
    ids = np.full(rows, largest_id)
    return pb.ComputeRequest(
        options=encode_call(LossCall()),
        labels=tensors.encode("labels", ids),
        logits=tensors.encode("logits", np.zeros((rows, classes), np.float32)),
    )


def message(*requests, cancelled=()):
    """Requests as (id, rows) or (id, rows, further fields)."""
    return pb.ComputeManyRequest(
        requests=[
            pb.ManyRequest(**({"id": each[0], "request": compute(each[1])} | dict(*each[2:])))
            for each in requests
        ],
        cancelled_ids=cancelled,
    )


class Call:
    """A client: sends messages one by one and takes answers as they come."""

    def __init__(self, engine, deadline=None, queue_bytes=1 << 20):
        self.engine = engine
        self.batcher = Batcher(engine, LIMITS)
        self.admission = Admission(Room(queue_bytes))
        self._sent = asyncio.Queue()
        self._read = asyncio.Semaphore(0)
        self.taken_messages = 0
        self.run = ManyRun(RequestReader(), self.batcher, self.admission, deadline)
        self._replies = self.run.replies(self._messages())
        self._answers = []

    async def _messages(self):
        while (payload := await self._sent.get()) is not None:
            self.taken_messages += 1
            yield payload
            self._read.release()  # the reader is back for the next one

    def send(self, *requests, **fields):
        self._sent.put_nowait(message(*requests, **fields).SerializeToString())

    def send_bytes(self, payload):
        self._sent.put_nowait(payload)

    async def read(self, count):
        """Waits until so many more messages have been read."""
        for _ in range(count):
            await self._read.acquire()

    def end(self):
        self._sent.put_nowait(None)

    async def answer(self):
        """The next answer."""
        while not self._answers:
            reply = pb.ComputeManyResponse.FromString(await anext(self._replies))
            self._answers += reply.responses
        return self._answers.pop(0)

    async def rest(self):
        """All answers until the end, by id."""
        answers = list(self._answers)
        async for payload in self._replies:
            answers += pb.ComputeManyResponse.FromString(payload).responses
        return {answer.id: answer for answer in answers}

    async def close(self):
        await self._replies.aclose()
        self.engine.release(100)
        await self.batcher.close()


def scenario(**settings):
    """Runs a coroutine function with a call to a held engine."""

    def decorate(test):
        def run():
            async def play():
                call = Call(HeldEngine(), **settings)
                try:
                    await test(call, call.engine)
                finally:
                    await call.close()
                assert call.admission.held_bytes == 0

            asyncio.run(play())

        run.__doc__, run.__name__ = test.__doc__, test.__name__
        return run

    return decorate


def rows_of(answer):
    assert answer.WhichOneof("outcome") == "response", answer
    return answer.response.per_example.shape[0]


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


@scenario()
async def test_cancelled_requests_are_neither_computed_nor_answered(call, engine):
    """A request that is taken back before its batch leaves is dropped; unknown ids are passed."""
    call.send((1, 1))
    first = asyncio.ensure_future(call.answer())
    await engine.entered()
    call.send((2, 2), (3, 3))
    call.send(cancelled=[2, 99])
    call.end()
    await call.read(3)
    engine.release(2)
    assert (await first).id == 1
    assert list(await call.rest()) == [3]
    assert engine.batches == [[1], [3]]


@scenario()
async def test_late_requests_are_not_computed(call, engine):
    """A request whose time has passed while it waited gets DEADLINE_EXCEEDED and no computing."""
    call.send((1, 1))
    first = asyncio.ensure_future(call.answer())
    await engine.entered()
    call.send((4, 4, {"timeout_ms": 3600_000}))  # due before a batch's hour of waiting is over
    await engine.entered()
    loop = asyncio.get_running_loop()
    call.send((2, 2, {"timeout_ms": 1}), (3, 3, {"timeout_ms": 3600_000}))
    call.end()
    await call.read(3)
    is_late = asyncio.Event()
    loop.call_later(0.002, is_late.set)
    await is_late.wait()
    engine.release(3)
    assert (await first).id in {1, 4}  # which were computed at the same time
    answers = await call.rest()
    assert rows_of(answers[3]) == 3
    assert answers[2].error.code == 4
    assert "the deadline passed before anything was computed" in answers[2].error.message
    assert engine.batches == [[1], [4], [3]]


@scenario(deadline=0.0)
async def test_the_deadline_of_the_stream_holds_for_its_requests(call, engine):
    """Requests without a timeout have the stream's deadline, and none has a later one."""
    call.send((1, 1), (2, 2, {"timeout_ms": 3600_000}))
    call.end()
    answers = await call.rest()
    assert [answers[i].error.code for i in (1, 2)] == [4, 4]
    assert engine.batches == []


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


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"\xff" * 9, "expected a losswire.v1.ComputeManyRequest, received 9 other bytes"),
        (b"", "requests: expected at least one, received none"),
        (message((4, 1), (4, 2)).SerializeToString(), "id: expected one that is not in use"),
    ],
)
def test_what_is_no_message_ends_the_call(payload, words):
    """A client that does not keep to the protocol is told so; what it had sent is answered."""

    async def play():
        call = Call(HeldEngine())
        call.engine.release(10)
        call.send((1, 2))
        assert rows_of(await call.answer()) == 2
        call.send_bytes(payload)
        with pytest.raises(InvalidRequest, match=words):
            await call.rest()
        await call.close()
        assert call.admission.held_bytes == 0

    asyncio.run(play())


@scenario()
async def test_draining_answers_what_was_read_and_ends(call, engine):
    """A server that stops finishes what is in flight, then ends the call, idle or not."""
    call.send((1, 2))
    first = asyncio.ensure_future(call.answer())
    await engine.entered()
    draining = asyncio.ensure_future(call.admission.drain(60))
    await asyncio.sleep(0)
    call.send((2, 2))
    engine.release()
    assert rows_of(await first) == 2
    with pytest.raises(Draining):
        await call.rest()
    assert await draining
    assert engine.batches == [[2]]


@scenario()
async def test_a_call_that_is_dropped_takes_its_requests_back(call, engine):
    """When the client is gone, nothing of its is computed any more or held."""
    call.send((1, 1))
    first = asyncio.ensure_future(call.answer())
    await engine.entered()
    call.send((2, 2), (3, 3))
    await call.read(2)
    first.cancel()
    await asyncio.wait([first])
    await call._replies.aclose()
    assert call.admission.held_bytes == 0
    assert call.batcher._groups == {}
    engine.release()
    assert engine.batches == [[1]]


@scenario()
async def test_a_drain_ends_a_call_that_has_not_read_anything(call, engine):
    """A call that began in the very turn in which the server is told to stop ends, too."""
    first = asyncio.ensure_future(anext(call._replies))
    await asyncio.sleep(0)  # the call has begun, its reader has not
    await call.admission.drain(60)
    with pytest.raises(Draining):
        await asyncio.wait_for(first, 20)


@scenario()
async def test_a_call_that_is_cancelled_twice_gives_all_back(call, engine):
    """A second cancellation, while the first is being seen to, leaves nothing behind."""
    call.send((1, 1), (2, 2))
    first = asyncio.ensure_future(call.answer())
    await engine.entered()
    for _ in range(2):
        first.cancel()
        await asyncio.sleep(0)
    await asyncio.wait([first])
    assert call.admission.held_bytes == 0
    engine.release()
