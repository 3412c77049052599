"""What an engine is: something that computes a batch of requests, whatever it runs on.

In: validated requests that share a `batch_key`. Out: one result each, in order, bit-identical to
what each would get alone. An engine raises only for faults of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from losswire_server.requests import LossRequest, LossResult


class Registrar(Protocol):
    """What wants to know of memory that clients share. Called from any thread."""

    def register(self, address: int, nbytes: int) -> None:
        """Memory that has been mapped."""

    def unregister(self, address: int) -> None:
        """The same before it is unmapped, when nobody uses it any more."""


class Engine(Protocol):
    """Computes losses and gradients. Called from several threads at once."""

    @property
    def name(self) -> str:
        """What `--engine` calls it."""

    @property
    def device(self) -> str:
        """What it computes on, in words."""

    @property
    def quick_bytes(self) -> int:
        """Bytes of a batch that is computed sooner than another thread starts on it; 0 for none.

        A request that is alone is computed at once up to some times as many.
        """

    @property
    def registrar(self) -> Registrar | None:
        """What is to know of memory that clients share; None where nothing gains by it."""

    def compute(self, requests: Sequence[LossRequest]) -> list[LossResult]:
        """Computes one batch. The requests share a batch key; the results are in their order."""

    def close(self) -> None:
        """Releases threads and memory; nothing may be computing."""
