"""A call as a plan: a generator of steps over the wire, which both clients carry out.

A plan yields what to send, is sent back what came, and returns the caller's result; a step that
fails raises its error inside the plan, where another path may be tried. So the order of messages
is written once, and a client only knows how to take one step.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeAlias, TypeVar

ResultT = TypeVar("ResultT")
DoneT = TypeVar("DoneT")

SERVICE: Final = "losswire.v1.LossService"


@dataclass(frozen=True, slots=True)
class Unary:
    """One message each way; the answer is the reply's bytes.

    Attributes:
        rpc: its name.
        payload: the message.
        is_pinned: whether it has to reach the same server as others that are.
    """

    rpc: str
    payload: bytes
    is_pinned: bool = False


@dataclass(frozen=True, slots=True)
class Joined:
    """A request that shares messages with those of other calls; the answer is the reply's bytes.

    Attributes:
        payload: the `ComputeRequest`.
    """

    payload: bytes


class NotServed(Exception):  # noqa: N818 -- no fault: another path is taken
    """The server does not have the RPC of a step."""


@dataclass(frozen=True, slots=True)
class Streamed:
    """Messages both ways at the same time; there is no answer but what `take` was given.

    Attributes:
        rpc: its name.
        messages: to be sent, made as they are needed.
        take: called with each message that comes, in order, on one thread.
    """

    rpc: str
    messages: Iterable[bytes]
    take: Callable[[bytes], None]


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing is sent for a while; there is no answer.

    Attributes:
        seconds: how long.
        error: the call's, where its deadline would come first.
    """

    seconds: float
    error: Exception


Step: TypeAlias = Unary | Joined | Streamed | Pause
Plan: TypeAlias = Generator[Step, Any, ResultT]


@dataclass(frozen=True, slots=True)
class Done(Generic[DoneT]):
    """The end of a plan."""

    result: DoneT
