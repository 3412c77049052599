"""Which client an operator asks.

Operators take tensors and numbers, so a client goes by a number; the clients behind the numbers are
held weakly, by nobody but those who use them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from weakref import WeakValueDictionary

import torch

from losswire._default import checked_client, default_client

if TYPE_CHECKING:
    from losswire._client import Client

DEFAULT: Final = 0
"""Stands for the default client, whichever it is when the operator runs."""

_CLIENTS: Final[WeakValueDictionary[int, Client]] = WeakValueDictionary()


def client_of(number: int) -> Client:
    """The client that a number stands for."""
    return default_client() if number == DEFAULT else _CLIENTS[number]


@torch.compiler.disable
def _register(client: Client) -> int:
    _CLIENTS[id(client)] = checked_client(client)
    return id(client)


class Route:
    """The client of a module.

    A copied module asks the same client. One that was pickled asks the default client of the
    process in which it is loaded: a connection cannot be pickled.
    """

    def __init__(self, client: Client | None) -> None:
        self.client = client
        self.number = number_of(client)

    def __deepcopy__(self, _: dict[int, Any]) -> Route:
        return self

    def __reduce__(self) -> tuple[type[Route], tuple[None]]:
        return (Route, (None,))


def number_of(client: Client | Route | None) -> int:
    """The number of a client; None is the default one.

    Under `torch.compile` a client interrupts the graph; a module's route has its number already.
    """
    if isinstance(client, Route):
        return client.number
    return DEFAULT if client is None else _register(client)
