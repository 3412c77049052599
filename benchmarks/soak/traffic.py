"""Mixed traffic of one client process: every path, several losses and dtypes, each reply checked.

In: a target and a seed. Out: a tally of what became of the calls, by path.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar

import numpy as np

import losswire
from benchmarks.soak.answers import Question
from losswire_server.engine.numpy_engine import NumpyEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from losswire_proto.dtypes import Array

ClientT = TypeVar("ClientT")
Report: TypeAlias = "Callable[[Tally], bool]"

Outcome: TypeAlias = Literal["right", "told", "lost", "wrong"]
"""What became of a call:

- right: the answer, to the bit;
- told: the connection was cut when the logits may have been overwritten, and the caller was told;
- lost: any other error, within the deadline and with retries;
- wrong: any other answer.
"""

TIMEOUT_SECONDS: Final = 60.0

LOSSES: Final = (
    "softmax_cross_entropy", "sigmoid_cross_entropy", "kl_divergence", "focal", "log_softmax",
    "categorical_cross_entropy", "binary_cross_entropy", "softmax",
)  # fmt: skip
DTYPES: Final = ("float32", "float16", "bfloat16", "float64")


@dataclass(frozen=True, slots=True)
class Way:
    """How a call goes.

    Attributes:
        name: for the eye.
        transport: of its client.
        shape: of its logits.
        in_flight: calls made together.
        is_in_region: whether the logits lie in an array that the client made.
        is_overwritten: whether the gradient is written over them.
    """

    name: str
    transport: Literal["auto", "inline", "stream", "shared"]
    shape: tuple[int, int]
    in_flight: int
    is_in_region: bool = False
    is_overwritten: bool = False


WAYS: Final = (
    Way("many small calls", "auto", (8, 10), 16),
    Way("one message", "inline", (64, 200), 4),
    Way("streamed", "stream", (2600, 500), 2),
    Way("shared memory", "shared", (700, 500), 2),
    Way("shared memory, own array", "shared", (700, 500), 2, is_in_region=True),
    Way("shared memory, overwritten", "shared", (700, 500), 1, True, True),
)


@dataclass(slots=True)
class Tally:
    """Counts of calls by way and outcome, and the first messages of what went wrong."""

    calls: Counter[tuple[str, str]] = field(default_factory=Counter)
    messages: list[str] = field(default_factory=list)

    def count(self, way: Way, outcome: Outcome, message: str = "") -> None:
        """Counts one call."""
        self.calls[way.name, outcome] += 1
        if outcome in {"lost", "wrong"}:
            self.messages.append(f"{way.name}, {outcome}: {message}"[:500])

    def add(self, other: Tally) -> None:
        """Counts what another has counted."""
        self.calls.update(other.calls)
        self.messages.extend(other.messages)

    def of(self, outcome: Outcome) -> int:
        """All calls with an outcome."""
        return sum(count for (_, each), count in self.calls.items() if each == outcome)

    def as_json(self) -> dict[str, dict[str, int]]:
        """Counts by way, then by outcome."""
        table: dict[str, dict[str, int]] = {}
        for (way, outcome), count in sorted(self.calls.items()):
            table.setdefault(way, {})[outcome] = count
        return table


@dataclass(slots=True)
class _Call:
    """One call: its way, its question, and the array that its logits lie in."""

    way: Way
    question: Question
    logits: Array

    def made(self, client: Any) -> Any:
        """Makes it; a coroutine of it with an asynchronous client."""
        problem = self.question.problem
        if self.way.is_overwritten:
            self.logits[...] = problem.logits
        keywords = {"overwrite_logits": True} if self.way.is_overwritten else {}
        method = getattr(client, problem.loss)
        return method(self.logits, *problem.arguments[1:], **problem.keywords, **keywords)

    def count(self, result: Any, tally: Tally) -> None:
        """Looks at the answer, or at the error in its place."""
        if isinstance(result, BaseException):
            is_documented = isinstance(result, (losswire.ServerUnavailable, losswire.ServerBusy))
            is_told = self.way.is_overwritten and is_documented
            message = f"{type(result).__name__}: {result}"
            tally.count(self.way, "told" if is_told else "lost", message)
            return
        difference = self.question.difference(result)
        problem = self.question.problem
        what = f"{difference} of {problem.loss}, {problem.logits.dtype}"
        tally.count(self.way, "wrong" if difference else "right", what)


class Traffic:
    """The traffic of one process.

    Args:
        target: of the server, or of a proxy before it.
        seed: of the questions and their order.
        tls: file of the server's authority; None for plain text.
    """

    def __init__(self, target: str, seed: int, tls: str | None = None) -> None:
        self._random = random.Random(seed)  # noqa: S311 -- to be repeated, not to be guessed
        self._connection = {"target": target, "tls": tls}
        engine = NumpyEngine(threads=1)
        self._questions = {way: self._asked(way, engine) for way in WAYS}
        engine.close()

    def run(self, report: Report, rounds: int | None = None) -> None:
        """Makes calls by synchronous clients until `report` says no.

        Args:
            report: takes what became of some calls; whether to go on.
            rounds: of all ways; None for no such end.
        """
        with ExitStack() as stack:
            pool = stack.enter_context(ThreadPoolExecutor(max(way.in_flight for way in WAYS)))
            clients = {
                way.transport: stack.enter_context(self._client(losswire.Client, way))
                for way in _ONE_OF_EACH_TRANSPORT
            }
            for client in clients.values():
                _greet(client)
            for way in self._order(rounds):
                calls = self._calls(way, clients[way.transport])
                futures = [pool.submit(call.made, clients[way.transport]) for call in calls]
                wait(futures)
                results = [future.exception() or future.result() for future in futures]
                if not report(_counted(calls, results)):
                    return

    async def run_async(self, report: Report, rounds: int | None = None) -> None:
        """The same by asynchronous clients."""
        async with AsyncExitStack() as stack:
            clients = {
                way.transport: await stack.enter_async_context(
                    self._client(losswire.AsyncClient, way)
                )
                for way in _ONE_OF_EACH_TRANSPORT
            }
            for client in clients.values():
                await _greet_async(client)
            for way in self._order(rounds):
                calls = self._calls(way, clients[way.transport])
                made = (call.made(clients[way.transport]) for call in calls)
                results = await asyncio.gather(*made, return_exceptions=True)
                if not report(_counted(calls, results)):
                    return

    def _client(self, kind: Callable[..., ClientT], way: Way) -> ClientT:
        return kind(transport=way.transport, timeout=TIMEOUT_SECONDS, **self._connection)

    def _asked(self, way: Way, engine: NumpyEngine) -> list[Question]:
        losses = LOSSES[:2] if way.is_overwritten else LOSSES
        return [
            Question.make(
                self._random.choice(losses),
                way.shape,
                self._random.choice(DTYPES),
                self._random.randrange(1 << 30),
                engine,
            )
            for _ in range(_QUESTIONS)
        ]

    def _order(self, rounds: int | None) -> Iterator[Way]:
        """All ways in random order, again and again."""
        for _ in itertools.count() if rounds is None else range(rounds):
            yield from self._random.sample(WAYS, len(WAYS))

    def _calls(self, way: Way, client: Any) -> list[_Call]:
        """Calls to be made together."""
        return [self._call(way, client) for _ in range(way.in_flight)]

    def _call(self, way: Way, client: Any) -> _Call:
        question = self._random.choice(self._questions[way])
        logits = question.problem.logits
        if way.is_in_region:
            own = client.empty(logits.shape, logits.dtype)
            own[...] = logits
            logits = own
        return _Call(way, question, logits)


def _greet(client: losswire.Client) -> None:
    """A first answer: before it, a client gives up early (docs/reliability.md)."""
    while True:
        with suppress(losswire.ServerUnavailable):
            client.softmax(_GREETING)
            return


async def _greet_async(client: losswire.AsyncClient) -> None:
    """The same."""
    while True:
        with suppress(losswire.ServerUnavailable):
            await client.softmax(_GREETING)
            return


def _counted(calls: Sequence[_Call], results: Sequence[Any]) -> Tally:
    tally = Tally()
    for call, result in zip(calls, results, strict=True):
        call.count(result, tally)
    return tally


_GREETING: Final = np.zeros((1, 2), np.float32)

_QUESTIONS: Final = 4
"""Of each way."""

_ONE_OF_EACH_TRANSPORT: Final = tuple({way.transport: way for way in WAYS}.values())
