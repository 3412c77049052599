"""One ComputeMany call without gRPC, for tests: messages in, messages out, an engine told when."""

import asyncio

import numpy as np

from held import HeldEngine
from losswire_proto import tensors
from losswire_proto.losses import LossCall
from losswire_proto.v1 import loss_service_pb2 as pb
from losswire_proto.wire import encode_call
from losswire_server.admission import Admission, Room
from losswire_server.batcher import Batcher
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
