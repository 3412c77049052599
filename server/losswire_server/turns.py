"""Whose turn it is: clients that wait share the engine by bytes, however much each has waiting.

In: requests, each with its client and its size. Out: a number for each, its turn; who has the least
is next. A client's turns are as many bytes apart as its requests are large, and never begin before
"now", the turn of what is being computed: so one who asks for much stands behind itself, not before
others, and nobody saves up turns by asking for nothing. What is dropped before it is computed takes
no turn: its bytes are given back. (Start-time fair queueing: as deficit round robin, with a bound
of one request instead of one round.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Hashable

_NEWCOMERS: Final = 256
"""That pass a request of their size, at most."""

_KEPT: Final = 256
"""Clients whose turns have passed, before they are looked for and forgotten."""


class Turns:
    """The turns of all clients of one queue."""

    def __init__(self) -> None:
        self._now = 0
        self._next: dict[Hashable, int] = {}
        self._most = _KEPT

    def give(self, client: Hashable, nbytes: int) -> int:
        """The turn of a client's next request."""
        known = self._next
        turn = max(known.get(client, 0), self._now)
        known[client] = turn + max(nbytes, 1)
        if len(known) > self._most:
            self._forget()
        return turn

    def take_back(self, client: Hashable, nbytes: int) -> None:
        """A request that had a turn is not computed; the client's next one has its bytes of turns.

        That one may pass others of its own, which come no later than if all had been computed.
        """
        if client in self._next:
            self._next[client] -= max(nbytes, 1)

    def reach(self, turn: int, nbytes: int) -> None:
        """So many bytes are computed now, from this turn on."""
        # A little further, or newcomers one after another could pass those who wait for ever.
        self._now = max(self._now, turn - (-nbytes // _NEWCOMERS))

    def clear(self) -> None:
        """Nobody waits."""
        self._next.clear()

    def _forget(self) -> None:
        """Forgets those who would have to stand behind nobody."""
        self._next = {each: turn for each, turn in self._next.items() if turn > self._now}
        self._most = 2 * len(self._next) + _KEPT
