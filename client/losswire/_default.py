"""The client that the frameworks' adapters ask where they are not given one.

It is made when first asked for, for `LOSSWIRE_TARGET` as it is then, else `localhost:50051`. After
a fork the child goes on with it, over a channel of its own.
"""

from __future__ import annotations

from typing import Any, Final

from losswire._client import Client
from losswire._errors import InvalidInput

# A dictionary, whose `setdefault` is atomic: a lock could be held by a thread that a fork left
# behind.
_DEFAULT: Final[dict[str, Client]] = {}
_KEY: Final = "client"


def default_client() -> Client:
    """This process's default client, made when first asked for.

    Raises:
        InvalidInput: `LOSSWIRE_TARGET` is no address.
    """
    present = _DEFAULT.get(_KEY)
    if present is not None:
        return present
    made = Client()
    kept = _DEFAULT.setdefault(_KEY, made)
    if kept is not made:  # another thread was faster
        made.close()
    return kept


def set_default_client(client: Client | None) -> None:
    """Makes `client` this process's default; None: a new one is made when next asked for.

    The one before stays open: whoever made it closes it.

    Raises:
        InvalidInput: not a `Client`.
    """
    if client is None:
        _DEFAULT.pop(_KEY, None)
    else:
        _DEFAULT[_KEY] = checked_client(client)


def checked_client(client: Any) -> Client:
    """The client that an adapter was given.

    Raises:
        InvalidInput: something else, such as an `AsyncClient`, whose results must be awaited.
    """
    if not isinstance(client, Client):
        raise InvalidInput(f"client: expected a losswire.Client, received {client!r}")
    return client
