"""A client process that puts load on a server, retries off, every answer checked.

In: target, transport and shape as arguments; then a line for each measuring on standard input,
`{"callers": n, "seconds": s}` for callers that each wait for their answer, or
`{"rate": r, "seconds": s}` for calls that come whether or not others are done, or
`{"connected": c}` to hang up and to come back. Out: a line of JSON for each, with what became of
the calls.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import losswire
from benchmarks.soak.answers import Question
from losswire.bench.problem import parse_shape
from losswire_server.engine.numpy_engine import NumpyEngine

if TYPE_CHECKING:
    from losswire_proto.dtypes import Array

TIMEOUT_SECONDS: Final = 5.0
"""An answer after this is of no use and no goodput."""

_QUESTIONS: Final = 3


@dataclass(slots=True)
class Outcomes:
    """What became of calls: the seconds of each right one, and the number of all others."""

    latencies: list[float] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)

    def as_json(self) -> dict[str, Any]:
        """All of it."""
        return {"latencies": self.latencies, "others": self.others}


class LoadingClient:
    """Makes losses-only calls for tensors that lie in the client's memory."""

    def __init__(self, target: str, transport: Any, shape: tuple[int, ...]) -> None:
        self._target, self._transport = target, transport
        engine = NumpyEngine(threads=1)
        self._questions = [
            Question.make("softmax_cross_entropy", shape, "float32", seed, engine)
            for seed in range(_QUESTIONS)
        ]
        engine.close()
        self._asked: list[tuple[Array, Array, bytes]] = []
        self._turn = itertools.count()

    def connect(self) -> None:
        """Comes, and lays the tensors out."""
        client = losswire.AsyncClient(
            self._target, transport=self._transport, timeout=TIMEOUT_SECONDS, retries=False
        )
        for question in self._questions:
            logits, ids = question.problem.arguments
            own, labels = client.empty(logits.shape, logits.dtype), client.empty(ids.shape, "int32")
            own[...], labels[...] = logits, ids
            self._asked.append((own, labels, question.expected["per_example"]))
        self._client = client

    async def hang_up(self) -> None:
        """Lets go of the server and of the tensors."""
        self._asked.clear()
        await self._client.close()

    async def measure(self, asked: dict[str, float]) -> Outcomes:
        """One measuring, as the line says."""
        outcomes = Outcomes()
        end = time.perf_counter() + asked["seconds"]
        if "callers" in asked:
            callers = (self._caller(outcomes, end) for _ in range(int(asked["callers"])))
            await asyncio.gather(*callers)
        else:
            await self._offer(outcomes, asked["rate"], end)
        return outcomes

    async def _caller(self, outcomes: Outcomes, end: float) -> None:
        """Calls, and where the server is full waits as long as it says."""
        while time.perf_counter() < end:  # noqa: ASYNC110 -- it polls nothing
            await asyncio.sleep(await self._call(outcomes))

    async def _offer(self, outcomes: Outcomes, rate: float, end: float) -> None:
        """Begins calls at a rate."""
        calls: set[asyncio.Task[float]] = set()
        begin = time.perf_counter()
        for number in itertools.count():
            due = begin + number / rate
            if due >= end:
                break
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            call = asyncio.create_task(self._call(outcomes))
            calls.add(call)
            call.add_done_callback(calls.discard)
        await asyncio.gather(*calls)

    async def _call(self, outcomes: Outcomes) -> float:
        """One call; seconds until another is welcome."""
        logits, labels, expected = self._asked[next(self._turn) % _QUESTIONS]
        begin = time.perf_counter()
        try:
            result = await self._client.softmax_cross_entropy(logits, labels, gradients=False)
        except losswire.LosswireError as error:
            outcomes.others[type(error).__name__] += 1
            return getattr(error, "retry_delay", None) or 0.0
        seconds = time.perf_counter() - begin
        if result.per_example.tobytes() == expected:
            outcomes.latencies.append(seconds)
        else:
            outcomes.others["wrong"] += 1
        return 0.0


async def main(target: str, transport: Any, shape: str) -> None:
    """Runs it until standard input ends."""
    load = LoadingClient(target, transport, parse_shape(shape))
    load.connect()
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        asked = json.loads(line)
        outcomes = Outcomes()
        match asked.get("connected"):
            case True:
                load.connect()
            case False:
                await load.hang_up()
            case None:
                outcomes = await load.measure(asked)
        print(json.dumps(outcomes.as_json()), flush=True)
    await load.hang_up()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
