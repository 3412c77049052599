"""What both ends of a connection have to agree on.

A header tells clients apart that come by one Unix socket, where connections have no names.

A client asks an idle connection for a sign of life; a server takes a client that asks more often
than it permits for an attacker and drops the connection. So the two figures stand side by side.
"""

from __future__ import annotations

from typing import Final

CLIENT_PING_MS: Final = 10_000
"""A client pings where it has heard nothing for so long while calls are open."""

SERVER_PING_MS: Final = 60_000
"""A server does, so that what it holds for a client that vanished is given back."""

SHORTEST_PONG_MS: Final = 10_000
"""The least that a client waits for the answer, which may stand behind megabytes in buffers."""

LONGEST_PONG_MS: Final = 60_000
"""The most, and what a server waits; it has gone then. gRPC takes two options for it: what
`grpc.http2.ping_timeout_ms` says counts, however short `grpc.keepalive_timeout_ms` is."""

SHORTEST_PING_MS: Final = 5_000
"""Pings that come sooner than this after the one before are not permitted."""

CLIENT_HEADER: Final = "losswire-client"
"""Carries what a client is called, its own choice: for whose turn it is, and for nothing else."""

LONGEST_CLIENT: Final = 64
"""Characters of it; a longer one is none."""


def pong_ms(timeout: float) -> int:
    """How long a client waits for the answer to a ping, in milliseconds.

    A third of what its calls have, so that there is time for another server's try; who has a slow
    network gives them more.

    Args:
        timeout: of its calls, in seconds.
    """
    return round(min(max(1000 * timeout / 3, SHORTEST_PONG_MS), LONGEST_PONG_MS))
