"""Admission: a call is counted from its arrival, and its bytes from before it queues, to its end.

In: a call, its client, and the bytes its request will hold. Out: a way to give them back once the
reply has been taken; or `Overloaded` at once, where the server or this client has too much, or
`Draining` when the server is about to stop. Used from the event loop alone.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from losswire_server.errors import Draining, InvalidRequest, Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

RETRY_DELAY_MS: Final = 50
"""What a refused client is told to wait: several times a batch, little against a training step."""


@dataclass(frozen=True, slots=True)
class Room:
    """What the server takes at the same time.

    Attributes:
        nbytes: of requests (`queue_bytes`).
        requests: `queue_requests`.
        streams: `max_streams`.
        client_share: the part of each that one client may have.
    """

    nbytes: int
    requests: int = 1 << 16
    streams: int = 1 << 10
    client_share: float = 1.0


class Account:
    """What one client has taken; it may always have one request, however large."""

    __slots__ = ("_admission", "_key", "nbytes", "requests", "streams")

    def __init__(self, admission: Admission, key: Hashable) -> None:
        self._admission = admission
        self._key = key
        self.nbytes = self.requests = self.streams = 0

    @property
    def key(self) -> Hashable:
        """Who the client is."""
        return self._key

    def check(self) -> None:
        """Looks whether there is room for one more request, before it is read.

        Most of what comes to a server that is overloaded is refused here: what it costs to say no
        is taken from those who are served.

        Raises:
            Overloaded: there is none, whatever the request's size.
        """
        self._admission.check(self)

    def take(self, nbytes: int) -> Callable[[], None]:
        """Takes room for a request of `nbytes`; calling what is returned gives it back, once.

        Raises:
            InvalidRequest: more than there ever is.
            Overloaded: more than is free now, or than this client may have.
        """
        self._admission.add(self, nbytes)

        def give_back() -> None:
            self._admission.remove(self, nbytes)

        return give_back

    def open_stream(self) -> Callable[[], None]:
        """Counts a call of many messages; calling what is returned says that it has ended.

        Raises:
            Overloaded: there are too many of them.
        """
        self._admission.add_stream(self)
        return lambda: self._admission.remove_stream(self)


class Admission:
    """Counts calls, and requests and their bytes against what there is room for."""

    def __init__(self, room: Room) -> None:
        self._room = room
        share = room.client_share
        self._client_bytes = int(room.nbytes * share)
        self._client_requests = max(1, int(room.requests * share))
        self._client_streams = max(1, int(room.streams * share))
        self._accounts: dict[Hashable, Account] = {}
        self._held_bytes = self._requests = self._streams = 0
        self._calls = 0
        self._is_draining = False
        self._on_drain: set[Callable[[], object]] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def held_bytes(self) -> int:
        """Bytes admitted and not yet given back."""
        return self._held_bytes

    @property
    def requests(self) -> int:
        """Requests that hold them."""
        return self._requests

    @property
    def calls(self) -> int:
        """Calls that have not ended."""
        return self._calls

    @property
    def streams(self) -> int:
        """Calls of many messages among these."""
        return self._streams

    def account(self, client: Hashable = None) -> Account:
        """What a client has taken by now."""
        return self._accounts.get(client) or Account(self, client)

    def take(self, nbytes: int) -> Callable[[], None]:
        """As `Account.take`, for nobody in particular."""
        return self.account().take(nbytes)

    def check(self, account: Account) -> None:
        """Looks whether there is room for one more request; as `Account.check`."""
        room = self._room
        if self._requests >= room.requests:
            raise _full(f"{self._requests} of {room.requests} requests", 1, "queue")
        if account.requests >= self._client_requests:
            have = f"{account.requests} of {self._client_requests} requests"
            raise _full(have, 1, "client's share of the queue")

    def add(self, account: Account, nbytes: int) -> None:
        """Takes room for a request; as `Account.take`."""
        room = self._room
        if nbytes > room.nbytes:
            raise InvalidRequest(
                f"request: expected tensors and results of at most {room.nbytes} bytes"
                f" (queue_bytes), received {nbytes} bytes"
            )
        if self._held_bytes + nbytes > room.nbytes:
            raise _full(f"{self._held_bytes} of {room.nbytes} bytes", nbytes, "queue")
        self.check(account)
        if account.requests and account.nbytes + nbytes > self._client_bytes:
            have = f"{account.nbytes} of {self._client_bytes} bytes"
            raise _full(have, nbytes, "client's share of the queue")
        self._held_bytes += nbytes
        self._requests += 1
        account.nbytes += nbytes
        account.requests += 1
        self._accounts[account.key] = account

    def remove(self, account: Account, nbytes: int) -> None:
        """Gives the room of a request back."""
        self._held_bytes -= nbytes
        self._requests -= 1
        account.nbytes -= nbytes
        account.requests -= 1
        self._settle(account)

    def add_stream(self, account: Account) -> None:
        """Counts a call of many messages; as `Account.open_stream`."""
        room = self._room
        if self._streams >= room.streams:
            raise _full(f"{self._streams} of {room.streams} streams", 1, "server")
        if account.streams >= self._client_streams:
            have = f"{account.streams} of {self._client_streams} streams"
            raise _full(have, 1, "client's share")
        self._streams += 1
        account.streams += 1
        self._accounts[account.key] = account

    def remove_stream(self, account: Account) -> None:
        """Says that such a call has ended."""
        self._streams -= 1
        account.streams -= 1
        self._settle(account)

    def _settle(self, account: Account) -> None:
        if not account.requests and not account.streams:
            self._accounts.pop(account.key, None)

    def enter(self) -> Callable[[], None]:
        """Counts a call; calling what is returned says that it has ended.

        Raises:
            Draining: the server takes no new calls.
        """
        if self._is_draining:
            raise Draining("the server is draining and takes no new calls; use another one")
        self._calls += 1
        self._idle.clear()

        def leave() -> None:
            self._calls -= 1
            if not self._calls:
                self._idle.set()

        return leave

    def on_drain(self, action: Callable[[], object]) -> Callable[[], None]:
        """Has `action` called when the server is about to stop; the answer forgets it.

        For calls that would not end by themselves.
        """
        self._on_drain.add(action)
        return lambda: self._on_drain.discard(action)

    async def drain(self, seconds: float) -> bool:
        """Takes no new calls and waits for those that are there; False where time ran out."""
        self._is_draining = True
        for action in list(self._on_drain):
            action()
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            return False
        return True


def _full(taken: str, more: int, what: str) -> Overloaded:
    return Overloaded(
        f"the {what} is full: {taken} are taken, {more} more were asked for", RETRY_DELAY_MS
    )
