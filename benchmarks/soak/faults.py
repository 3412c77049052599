"""Which faults come when: in a seeded order, every kind once before any comes again."""

from __future__ import annotations

import random
from typing import Final, Literal, TypeAlias, get_args

Kind: TypeAlias = Literal["drop", "delay", "duplicate", "truncate", "reset", "stall"]
"""What is done to a chunk of bytes on its way:

- drop: it and what follows is swallowed for a while, then the connection is reset;
- delay: it arrives later;
- duplicate: a part of it is sent twice;
- truncate: a part of it is sent, then the connection is closed;
- reset: the connection is reset at once, with what was on its way;
- stall: the next chunks are taken slowly and in small pieces, as by a slow reader.
"""

KINDS: Final[tuple[Kind, ...]] = get_args(Kind)

UNDETECTED_IN_PLAIN_TEXT: Final[Kind] = "duplicate"
"""TCP never does this, and plain HTTP/2 has no checksum: a number may change and nobody can see it.
TLS finds it out."""


class Deck:
    """Draws the faults of one proxy.

    Args:
        seed: of their order and places.
        every: chunks from one fault to the next, on average; a chunk has up to 256 KiB.
        kinds: that are drawn.
    """

    def __init__(self, seed: int, every: int, kinds: tuple[Kind, ...] = KINDS) -> None:
        self.random = random.Random(seed)  # noqa: S311 -- to be repeated, not to be guessed
        self._every = every
        self._kinds = kinds
        self._left: list[Kind] = []
        self._chunks = self._distance()

    def next(self) -> Kind | None:
        """What befalls the next chunk; mostly nothing."""
        self._chunks -= 1
        if self._chunks > 0:
            return None
        self._chunks = self._distance()
        if not self._left:
            self._left = self.random.sample(self._kinds, len(self._kinds))
        return self._left.pop()

    def _distance(self) -> int:
        return self.random.randint(1, 2 * self._every - 1)
