"""Scripts: what a fuzzer's bytes mean.

In: any bytes. Out: the conditions a server runs under, and the steps that a client takes: one byte
of conditions, then for each step its kind in a byte, its length as a varint, and its content. Every
sequence of bytes is a script, so that no input is lost; a length that runs over the end ends there.
"""

from dataclasses import dataclass
from enum import IntEnum, IntFlag

from losswire_proto import codec

MOST_STEPS = 24
"""Of a script; what comes after them is not played."""


class Condition(IntFlag):
    """What differs from a server as it comes; each makes rare paths common."""

    SMALL_CUTS = 1
    "Tensors of few bytes are read and written the way of large ones."
    THREADS = 2
    "Batches are computed later, as those that are handed to threads."
    LITTLE_ROOM = 4
    "The queue and the streams' window hold a few requests."
    SHORT_DEADLINE = 8
    "Calls have 10 ms."


class Kind(IntEnum):
    """What a client does next."""

    SEND = 0
    "Sends a message (of a stream), or makes a call with it."
    PAUSE = 1
    "Lets the server run for as many turns as the step has bytes."
    WAIT = 2
    "Lets as many milliseconds go by."
    HOLD = 3
    "Takes no more replies."
    TAKE = 4
    "Takes as many replies as the step has bytes."
    CANCEL = 5
    "Cancels the call."
    DRAIN = 6
    "The server is told to stop."
    OPEN = 7
    "Announces a region."
    CLOSE = 8
    "Closes a region."
    HAND = 9
    "Hands a file over: which, and its name."
    HANG_UP = 10
    "Closes the connection over which files were handed over."


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that a client does."""

    kind: Kind
    content: bytes = b""


@dataclass(frozen=True, slots=True)
class Script:
    """All that a client does, and what it meets."""

    condition: Condition
    steps: tuple[Step, ...]

    @classmethod
    def of(cls, data: bytes) -> "Script":
        """The script that any bytes are."""
        steps = []
        position = 1
        while position < len(data) and len(steps) < MOST_STEPS:
            kind = Kind(data[position] % len(Kind))
            length, start = _length(data, position + 1)
            steps.append(Step(kind, data[start : start + length]))
            position = start + length
        return cls(Condition(data[0] & 15 if data else 0), tuple(steps))

    def to_bytes(self) -> bytes:
        """The bytes that are this script."""
        parts = [bytes([self.condition])]
        for step in self.steps:
            parts += [bytes([step.kind]), codec.varint(len(step.content)), step.content]
        return b"".join(parts)


def _length(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 21, 7):
        if position >= len(data):
            break
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
    return value, position
