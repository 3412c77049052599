"""What both ends of a connection have to agree on.

A header tells clients apart that come by one Unix socket, where connections have no names.

A client asks an idle connection for a sign of life; a server takes a client that asks more often
than it permits for an attacker and drops the connection. So the two figures stand side by side.
"""

from __future__ import annotations

from typing import Final

CLIENT_PING_MS: Final = 10_000
"""A client pings where it has heard nothing for so long while calls are open: with the time below a
server that vanished is noticed while most of a call's 30 seconds are left for another one's try."""

SERVER_PING_MS: Final = 60_000
"""A server does, so that what it holds for a client that vanished is given back."""

PING_TIMEOUT_MS: Final = 10_000
"""After a ping without an answer for so long, the connection is taken for dead. gRPC has two
options for that: `grpc.http2.ping_timeout_ms` is a minute if it is not told, however short
`grpc.keepalive_timeout_ms` is."""

SHORTEST_PING_MS: Final = 5_000
"""Pings that come sooner than this after the one before are not permitted."""

CLIENT_HEADER: Final = "losswire-client"
"""Carries what a client is called, its own choice: for whose turn it is, and for nothing else."""

LONGEST_CLIENT: Final = 64
"""Characters of it; a longer one is none."""
