"""Which way a tensor goes: in one message, as a stream of row blocks, or through shared memory.

Chosen by size, unless the client was told one. Results have the same bits whichever way they came.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from losswire._errors import InvalidInput, ServerBusy
from losswire._inline import inline, joined
from losswire._placed import CannotShare
from losswire._replies import ReplyReader
from losswire._results import loss_result
from losswire._retries import CannotRepeat, Retries
from losswire._shared import SharedMemory
from losswire._stream import stream

if TYPE_CHECKING:
    from losswire._calls import Plan
    from losswire._requests import Asked
    from losswire._results import LossResult, Outputs
    from losswire_proto.dtypes import Array

Transport: TypeAlias = Literal["auto", "inline", "stream", "shared"]

INLINE_BYTES: Final = 1 << 20
"""The largest tensors, together, that go in one message unless told otherwise."""


JOINED_BYTES: Final = 64 << 10
"""The largest tensors, together, that share a message with those of other calls. At 4 KB, 64 calls
in flight are six times as many a second as alone, at 61 KB one and a half times; one in flight is
not slower at any of these sizes."""


class Paths:
    """The ways to the server that a client may take, and whether any is taken again.

    Attributes:
        shared: the memory that the client shares.
        retries: of its calls.
    """

    def __init__(self, transport: Transport, *, retries: bool = True) -> None:
        if transport not in {"auto", "inline", "stream", "shared"}:
            raise InvalidInput(
                "transport: expected one of 'auto', 'inline', 'stream', 'shared',"
                f" received {transport!r}"
            )
        self._transport = transport
        self.shared = SharedMemory()
        self.retries = Retries(are_wanted=retries)
        self._has_many = True
        self._replies = ReplyReader()

    def compute(self, asked: Asked) -> Plan[LossResult]:
        """One loss and what was asked for with it."""
        return loss_result((yield from self.retries.of(lambda: self._take(asked))))

    def transform(self, asked: Asked) -> Plan[Array]:
        """The output of what is no loss."""
        return (yield from self.retries.of(lambda: self._take(asked)))["output"]

    def _take(self, asked: Asked) -> Plan[Outputs]:
        match self._transport:
            case "inline":
                return inline(asked, self._replies)
            case "stream":
                return stream(asked)
            case "shared":
                return self._shared(asked)
            case _:
                return self._by_size(asked)

    def _by_size(self, asked: Asked) -> Plan[Outputs]:
        if asked.nbytes > INLINE_BYTES:
            return self._large(asked)
        if self._has_many and asked.nbytes <= JOINED_BYTES:
            return joined(asked, self._replies, self._give_up_many)
        return inline(asked, self._replies)

    def _give_up_many(self) -> None:
        self._has_many = False

    def _shared(self, asked: Asked) -> Plan[Outputs]:
        try:
            return (yield from self.shared.compute(asked))
        except CannotShare as error:
            text = f"transport: 'shared' cannot be used: {error}"
            if error.is_passing:  # nobody knows when; it was tried again before
                raise CannotRepeat(ServerBusy(text)) from error
            raise InvalidInput(text) from error

    def _large(self, asked: Asked) -> Plan[Outputs]:
        try:
            return (yield from self.shared.compute(asked))
        except CannotShare:
            return (yield from stream(asked))
