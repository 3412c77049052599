"""Which way a tensor goes: in one message, as a stream of row blocks, or through shared memory.

Chosen by size, unless the client was told one. Results have the same bits whichever way they came.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from losswire._errors import InvalidInput, ServerBusy
from losswire._inline import inline
from losswire._results import loss_result
from losswire._shared import CannotShare, SharedMemory
from losswire._stream import stream

if TYPE_CHECKING:
    from losswire._calls import Plan
    from losswire._requests import Asked
    from losswire._results import LossResult, Outputs
    from losswire_proto.dtypes import Array

Transport: TypeAlias = Literal["auto", "inline", "stream", "shared"]

INLINE_BYTES: Final = 1 << 20
"""The largest tensors, together, that go in one message unless told otherwise."""


class Paths:
    """The ways to the server that a client may take."""

    def __init__(self, transport: Transport) -> None:
        if transport not in {"auto", "inline", "stream", "shared"}:
            raise InvalidInput(
                "transport: expected one of 'auto', 'inline', 'stream', 'shared',"
                f" received {transport!r}"
            )
        self._transport = transport
        self.shared = SharedMemory()

    def compute(self, asked: Asked) -> Plan[LossResult]:
        """One loss and what was asked for with it."""
        return loss_result((yield from self._take(asked)))

    def transform(self, asked: Asked) -> Plan[Array]:
        """The output of what is no loss."""
        return (yield from self._take(asked))["output"]

    def _take(self, asked: Asked) -> Plan[Outputs]:
        match self._transport:
            case "inline":
                return inline(asked)
            case "stream":
                return stream(asked)
            case "shared":
                return self._shared(asked)
            case _:
                return inline(asked) if asked.nbytes <= INLINE_BYTES else self._large(asked)

    def _shared(self, asked: Asked) -> Plan[Outputs]:
        try:
            return (yield from self.shared.compute(asked))
        except CannotShare as error:
            kind = ServerBusy if error.is_passing else InvalidInput
            raise kind(f"transport: 'shared' cannot be used: {error}") from error

    def _large(self, asked: Asked) -> Plan[Outputs]:
        try:
            return (yield from self.shared.compute(asked))
        except CannotShare:
            return (yield from stream(asked))
