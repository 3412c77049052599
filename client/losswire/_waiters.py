"""Who waits for the answer to a request that shared a message, and how each is told.

In: answers as they came in one message. Out: event loops woken once each, threads one by one.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import grpc

from losswire_proto.v1 import loss_service_pb2 as pb

if TYPE_CHECKING:
    import asyncio

Outcome: TypeAlias = "bytes | pb.RequestError | Exception"
"""The bytes of a `ComputeResponse`, the failure of one request, or what ended the stream."""

TOO_LATE: Final = pb.RequestError(
    code=grpc.StatusCode.DEADLINE_EXCEEDED.value[0], message="Deadline Exceeded"
)
"""The outcome of a request whose answer did not come in time, in gRPC's words."""


class Waiter(Protocol):
    """Who waits for an answer."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop on which it is told; None for a thread."""

    def take(self, outcome: Outcome, queue: deque[Waiter]) -> None:
        """Takes the answer. A thread is not awake yet: its turn comes from `wake_next(queue)`."""

    def wake(self) -> None:
        """Lets a thread go on; it has to let the next one of its queue go on."""


def wake_next(queue: deque[Waiter]) -> None:
    """Wakes the next thread that has its answer.

    One at a time, each by the one before: all at once, they would fight for the interpreter.
    """
    with suppress(IndexError):
        queue.popleft().wake()


def hand_out(answers: list[tuple[Waiter, Outcome]]) -> None:
    """Tells everyone; each event loop is woken once."""
    queue: deque[Waiter] = deque()
    loops: dict[asyncio.AbstractEventLoop, list[tuple[Waiter, Outcome]]] = {}
    for waiter, outcome in answers:
        if waiter.loop is None:
            waiter.take(outcome, queue)
            queue.append(waiter)
        else:
            loops.setdefault(waiter.loop, []).append((waiter, outcome))
    wake_next(queue)
    for loop, own in loops.items():
        with suppress(RuntimeError):  # the loop may be closed by now; nobody waits then
            loop.call_soon_threadsafe(_tell, own, queue)


def _tell(answers: list[tuple[Waiter, Outcome]], queue: deque[Waiter]) -> None:
    for waiter, outcome in answers:
        waiter.take(outcome, queue)
