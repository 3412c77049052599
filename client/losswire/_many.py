"""The path of small concurrent calls: their requests share messages of one long-lived stream.

In: the bytes of a `ComputeRequest` and who waits for its answer. Out: the bytes of the answer, or
an error. Callers put their requests where gRPC's sending thread takes all that have gathered into
one message; one thread of ours hands out the answers. What a message costs is so paid once for all
calls that are in flight together.

A stream that breaks fails the calls that were on it, and the next call opens another. It is no
error for anyone that a server ends one on which nothing is on its way.
"""

from __future__ import annotations

import itertools
import math
import os
import threading
from collections import deque
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

import grpc

from losswire_proto import many
from losswire_proto.v1 import loss_service_pb2 as pb

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

MESSAGE_BYTES: Final = 256 << 10
"""Of requests in one message, unless a single one is larger."""

PATIENCE: Final = 1.5
"""How many requests may be in flight for each that waits before a message leaves. Of 64 callers in
threads, so many share messages of about 40; with messages sent whenever there is a request it is 13
and each call costs half as much again."""

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


class Many:
    """The stream of a client in this process; opened by the first call, and again after its end.

    Args:
        begin: makes the call with the messages it is given.
    """

    def __init__(self, begin: Callable[[Iterator[bytes]], Any]) -> None:
        self._begin = begin
        # One attribute, as for channels: a lock could be held by a thread that a fork left behind.
        self._owned: tuple[int, _Stream | None] = (os.getpid(), None)
        self._inherited: list[_Stream] = []
        self._opening = threading.Lock()

    def send(self, payload: bytes, seconds: float, waiter: Waiter, *, is_flushed: bool) -> Ticket:
        """Puts a request on its way.

        Args:
            payload: the `ComputeRequest`.
            seconds: after which its answer is of no use.
            waiter: who is told.
            is_flushed: whether it may leave at once, or waits for `flush`.

        Raises:
            RuntimeError: the client has been closed.
        """
        while True:
            stream = self._stream()
            ticket = stream.send(payload, seconds, waiter, is_flushed=is_flushed)
            if ticket is not None:
                return ticket

    def close(self) -> None:
        """Ends the stream; calls in flight fail with `grpc.FutureCancelledError`."""
        pid, stream = self._owned
        if stream is not None and pid == os.getpid():
            stream.close()

    def __del__(self) -> None:
        # The threads of a stream know the stream, not this.
        with suppress(Exception):
            self.close()

    def _stream(self) -> _Stream:
        pid, stream = self._owned
        if pid != os.getpid():
            if stream is not None:
                self._inherited.append(stream)  # its destructor would touch the parent's call
            self._opening = threading.Lock()
            self._owned = (os.getpid(), None)
        elif stream is not None and not stream.is_over:
            return stream
        with self._opening:
            pid, stream = self._owned
            if stream is None or stream.is_over:
                stream = _Stream(self._begin)
                self._owned = (os.getpid(), stream)
            return stream


class Ticket:
    """A request on its way."""

    __slots__ = ("_stream", "id", "waiter")

    def __init__(self, stream: _Stream, identifier: int, waiter: Waiter) -> None:
        self._stream = stream
        self.id = identifier
        self.waiter = waiter

    def flush(self) -> None:
        """Lets the request leave, and all others that wait for it."""
        self._stream.flush()

    def cancel(self) -> None:
        """Tells the server that no answer is wanted; the waiter is not told of one."""
        self._stream.cancel(self)


class _Stream:
    """One ComputeMany call and what is on its way over it."""

    def __init__(self, begin: Callable[[Iterator[bytes]], Any]) -> None:
        self.is_over = False
        self._ids = itertools.count(1)
        self._lock = threading.Lock()
        self._in_flight: dict[int, Ticket] = {}
        self._unsent: list[bytes] = []
        self._cancelled: list[int] = []
        self._is_awake = False
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._call = begin(self._messages())
        threading.Thread(target=self._receive, name="losswire-many", daemon=True).start()

    def send(
        self, payload: bytes, seconds: float, waiter: Waiter, *, is_flushed: bool
    ) -> Ticket | None:
        """Puts a request on its way; None if the stream is over."""
        ticket = Ticket(self, next(self._ids), waiter)
        element = many.request(ticket.id, max(1, math.ceil(seconds * 1000)), payload)
        with self._lock:
            if self.is_over:
                return None
            self._in_flight[ticket.id] = ticket
            self._unsent.append(element)
        if is_flushed:
            self.flush()
        return ticket

    def flush(self) -> None:
        """Wakes the sending thread, if it is not awake and should be."""
        if not self._is_awake and self._is_worth_sending():
            self._is_awake = True
            self._wake.put(None)

    def _is_worth_sending(self) -> bool:
        """Whether as many requests wait as are on their way.

        Otherwise more will have gathered when the next answers come, and a message costs the same
        for one request as for all.
        """
        unsent = len(self._unsent)
        return bool(self._cancelled) or len(self._in_flight) <= PATIENCE * unsent

    def cancel(self, ticket: Ticket) -> None:
        """Forgets a request and has the server forget it."""
        with self._lock:
            if self._in_flight.pop(ticket.id, None) is None:
                return
            self._cancelled.append(ticket.id)
        self.flush()

    def close(self) -> None:
        """Ends the call and fails what is on its way."""
        self._end(grpc.FutureCancelledError())
        self._call.cancel()

    def _messages(self) -> Iterator[bytes]:
        """The messages, made as gRPC's thread comes for them."""
        while True:
            self._wake.get()
            self._is_awake = False  # before looking: what comes later wakes again
            while self._is_worth_sending() and (message := self._next_message()):
                yield message
            if self.is_over:
                return

    def _next_message(self) -> bytes:
        """All that has gathered, as far as a message goes."""
        with self._lock:
            size = count = 0
            for element in self._unsent:
                size += len(element)
                if count and size > MESSAGE_BYTES:
                    break
                count += 1
            parts, self._unsent = self._unsent[:count], self._unsent[count:]
            if self._cancelled:
                parts.append(many.cancelled(self._cancelled))
                self._cancelled = []
        return b"".join(parts)

    def _receive(self) -> None:
        """Hands out answers until the call ends."""
        error: Exception
        try:
            for payload in self._call:
                self._take(payload)
            error = ConnectionError("the server ended the stream without an answer")
        except Exception as ended:  # noqa: BLE001 -- whatever it was, it is the callers'
            error = ended
        self._end(error)
        self._call.cancel()

    def _take(self, payload: bytes) -> None:
        answers: list[tuple[Waiter, Outcome]] = []
        message = pb.ComputeManyResponse.FromString(payload)
        with self._lock:
            for response in message.responses:
                ticket = self._in_flight.pop(response.id, None)
                if ticket is not None:
                    outcome: Outcome = response.error
                    if response.HasField("response"):
                        outcome = response.response.SerializeToString()
                    answers.append((ticket.waiter, outcome))
        self.flush()
        _hand_out(answers)

    def _end(self, error: Exception) -> None:
        """Takes no more requests, and fails those that are on their way."""
        with self._lock:
            self.is_over = True
            left = list(self._in_flight.values())
            self._in_flight.clear()
            self._unsent.clear()
        self._wake.put(None)
        _hand_out([(ticket.waiter, error) for ticket in left])


def _hand_out(answers: list[tuple[Waiter, Outcome]]) -> None:
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
