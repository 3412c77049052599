"""The path of small concurrent calls: their requests share messages of one long-lived stream.

In: the bytes of a `ComputeRequest` and who waits for its answer. Out: the bytes of the answer, or
an error. Callers put their requests where gRPC's sending thread takes all that have gathered into
one message; one thread of ours hands out the answers. What a message costs is so paid once for all
calls that are in flight together.

A stream that breaks fails the calls that were on it, and the next call opens another. It is no
error for anyone that a server ends one on which nothing is on its way.
"""

from __future__ import annotations

import math
import os
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import grpc

from losswire import _forks as forks
from losswire._alarm import Alarm
from losswire._waiters import Outcome, Waiter, hand_out
from losswire_proto import many
from losswire_proto.v1 import loss_service_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MESSAGE_BYTES: Final = 256 << 10
"""Of requests in one message, unless a single one is larger."""

LONGEST_HOLD: Final = 0.005
"""Seconds that a request waits for company at most, while the server answers nobody."""

_LONGEST_END: Final = 1.0
"""Seconds that a fork waits for a stream to end; it takes about one millisecond."""

FEWEST: Final = 16
"""Requests up to which a message is not cut in two. Of more than that, a message takes half of all
that is in flight at most, so that client and server work at the same time: 64 tasks of one event
loop make 19,000 calls a second so, and 11,500 with all of them in one message (2 cores).
"""


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
        self._carried: list[Ticket] = []
        forks.watch(self)

    def send(self, payload: bytes, seconds: float, waiter: Waiter) -> Ticket:
        """Puts a request where `flush` lets it leave.

        Args:
            payload: the `ComputeRequest`.
            seconds: after which its answer is of no use.
            waiter: who is told.

        Raises:
            RuntimeError: the client has been closed.
        """
        ticket = Ticket(waiter, max(1, math.ceil(seconds * 1000)), payload)
        while not self._stream().adopt(ticket):
            pass
        return ticket

    def flush(self) -> None:
        """Lets what waits leave."""
        stream = self._owned[1]
        if stream is not None:
            stream.flush()

    def close(self) -> None:
        """Ends the stream; calls in flight fail with `grpc.FutureCancelledError`."""
        pid, stream = self._owned
        if stream is not None and pid == os.getpid():
            stream.close()

    def before_fork(self) -> None:
        """Ends the stream for a moment: gRPC in a child would trip over a thread that polls it."""
        self._opening.acquire()
        pid, stream = self._owned
        if stream is not None and pid == os.getpid():
            self._carried = stream.suspend()

    def after_fork_in_parent(self) -> None:
        """Sends what was in flight again, on another stream: any retry is safe."""
        self._opening.release()
        carried, self._carried = self._carried, []
        for ticket in carried:
            with suppress(Exception):  # its own deadline ends the wait
                self._stream().adopt(ticket)
        self.flush()

    def after_fork_in_child(self) -> None:
        """Begins anew: those who wait are threads of the parent."""
        self._opening = threading.Lock()
        self._carried = []

    def __del__(self) -> None:
        # The threads of a stream know the stream, not this. An interpreter that ends has stopped
        # them wherever they were, with locks that nobody gives back.
        if sys.is_finalizing():
            return
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
    """A request on its way.

    Attributes:
        stream: over which.
        id: its number there.
        waiter: who is told of the answer.
        timeout_ms: as the server is told it.
        payload: the `ComputeRequest`.
    """

    __slots__ = ("id", "payload", "stream", "timeout_ms", "waiter")
    stream: _Stream
    id: int

    def __init__(self, waiter: Waiter, timeout_ms: int, payload: bytes) -> None:
        self.waiter = waiter
        self.timeout_ms = timeout_ms
        self.payload = payload

    def cancel(self) -> None:
        """Tells the server that no answer is wanted; the waiter is not told of one."""
        self.stream.cancel(self)


class _Stream:
    """One ComputeMany call and what is on its way over it."""

    def __init__(self, begin: Callable[[Iterator[bytes]], Any]) -> None:
        self.is_over = False
        self._next_id = 1
        # A client that nobody holds may be collected, and end its stream, on a thread that has it.
        self._lock = threading.RLock()
        self._in_flight: dict[int, Ticket] = {}
        self._unsent: list[bytes] = []
        # Of the last message: its first id, and how many requests wait while none is answered.
        self._last_first = self._last_waiting = 0
        self._cancelled: list[int] = []
        self._is_awake = self._is_holding = False
        self._wake = Alarm()
        self._call = begin(self._messages())
        self._receiver = threading.Thread(target=self._receive, name="losswire-many", daemon=True)
        self._receiver.start()

    def adopt(self, ticket: Ticket) -> bool:
        """Takes a request; False if the stream is over."""
        with self._lock:
            if self.is_over:
                return False
            ticket.stream, ticket.id = self, self._next_id
            self._next_id += 1
            self._in_flight[ticket.id] = ticket
            self._unsent.append(many.request(ticket.id, ticket.timeout_ms, ticket.payload))
        return True

    def flush(self) -> None:
        """Wakes the sending thread, if it sleeps or waits for more that has come now."""
        if not self._is_awake or (self._is_holding and self._is_worth_sending()):
            self._is_awake, self._is_holding = True, False
            self._wake.set()

    def _has_something(self) -> bool:
        return bool(self._unsent or self._cancelled)

    def _is_worth_sending(self) -> bool:
        """Whether as many requests wait as the last message had, or any of these is answered.

        Otherwise more will have gathered soon, and a message costs the same for one request as for
        all. With 64 calls in flight from threads, messages hold 30 of them so; if one left whenever
        there was a request, they would hold 13 and a call would cost the client half as much again.
        """
        return bool(self._cancelled) or len(self._unsent) >= max(1, self._last_waiting)

    def cancel(self, ticket: Ticket) -> None:
        """Forgets a request and has the server forget it."""
        with self._lock:
            if self._in_flight.pop(ticket.id, None) is None:
                return
            self._cancelled.append(ticket.id)
            if ticket.id >= self._last_first and self._last_waiting:
                self._last_waiting -= 1
        self.flush()

    def close(self) -> None:
        """Ends the call and fails what is on its way."""
        self._end(grpc.FutureCancelledError())
        self._call.cancel()

    def _messages(self) -> Iterator[bytes]:
        """The messages, made as gRPC's thread comes for them."""
        while not self.is_over:
            self._wake.wait()
            # The last look below may have been written down over a flush that came after it.
            self._is_awake = True
            while self._is_awake:
                if not self._has_something():
                    self._is_awake = False
                    # Looked at again, for what came before others could see that.
                    self._is_awake = self._has_something()
                    continue
                if not self._is_worth_sending():
                    self._hold()
                if message := self._next_message():
                    yield message

    def _hold(self) -> None:
        """Waits for more requests, or for answers."""
        self._is_holding = True
        if not self._is_worth_sending():
            self._wake.wait(LONGEST_HOLD)
        self._is_holding = False

    def _next_message(self) -> bytes:
        """All that has gathered, as far as a message goes."""
        with self._lock:
            size = count = 0
            most = max(FEWEST, (len(self._in_flight) + 1) // 2)
            for element in self._unsent:
                size += len(element)
                if count and (size > MESSAGE_BYTES or count >= most):
                    break
                count += 1
            if count:
                self._last_first = self._next_id - len(self._unsent)
                self._last_waiting = count
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
                if response.id >= self._last_first:
                    self._last_waiting = 0
                if ticket is not None:
                    outcome: Outcome = response.error
                    if response.HasField("response"):
                        outcome = response.response.SerializeToString()
                    answers.append((ticket.waiter, outcome))
        self.flush()
        hand_out(answers)

    def suspend(self) -> list[Ticket]:
        """Ends the call, and returns what was on its way."""
        left = self._stop()
        self._call.cancel()
        self._receiver.join(_LONGEST_END)
        return left

    def _end(self, error: Exception) -> None:
        """Takes no more requests, and fails those that are on their way."""
        hand_out([(ticket.waiter, error) for ticket in self._stop()])

    def _stop(self) -> list[Ticket]:
        with self._lock:
            self.is_over = True
            left = list(self._in_flight.values())
            self._in_flight.clear()
            self._unsent.clear()
        self._wake.set()
        return left
