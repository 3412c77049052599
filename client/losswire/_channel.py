"""The connection of a client: one channel for each process that uses it.

In: a target and how to be let in. Out: a gRPC channel that is this process's own. Calls to a name
or a list of addresses go in turn to all servers that say they are well; one that restarts is found
again by itself. A channel does not live through a fork, so the process id is looked at for each
call; and channels share no subchannels, since a child's new channel would otherwise find its
parent's dead connection.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import secrets
import ssl
import warnings
from pathlib import Path
from typing import Final, TypeAlias

import grpc

from losswire._calls import SERVICE
from losswire._errors import InvalidInput
from losswire_proto import connections

Tls: TypeAlias = bool | str | os.PathLike[str] | grpc.ChannelCredentials
"""True for the system's certificate authorities, a file of others (PEM), or gRPC's credentials."""

_FRAME_BYTES: Final = 4 << 20

_SPREAD: Final = ("dns:", "ipv4:", "ipv6:")
"""Targets that may be several servers. Of a bare `name:port` the first that answers is taken."""

_SCHEME: Final = re.compile(r"^(dns|ipv4|ipv6):(//[^/]*/)?")

_SERVICE_CONFIG: Final = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": SERVICE},
    }
)

_OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.http2.max_frame_size", _FRAME_BYTES),
    ("grpc.experimental.tcp_max_read_chunk_size", _FRAME_BYTES),
    ("grpc.http2.lookahead_bytes", 2 * _FRAME_BYTES),
    ("grpc.keepalive_time_ms", connections.CLIENT_PING_MS),
    ("grpc.http2.max_pings_without_data", 0),  # a stream of small calls may be idle for long
    # A server that restarts is back in seconds; gRPC's own backoff grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 3000),
)


class ClientClosed(RuntimeError):  # noqa: N818 -- it reads as what happened
    """A call on a client that has been closed."""


class Connection:
    """Channels to `target`, one in each process that makes a call.

    Args:
        target: where to.
        token: sent with each call.
        tls: how to know the server.
        timeout: that calls have, in seconds.
        is_pinned: whether all calls go to the same one of several servers, while it is there.
        server_name: that its certificate is to have; None for the target's.
    """

    def __init__(
        self,
        target: str,
        token: str | None,
        tls: Tls | None,
        *,
        timeout: float,
        is_pinned: bool = False,
        server_name: str | None = None,
    ) -> None:
        self.target = target
        pong = connections.pong_ms(timeout)
        self._options: tuple[tuple[str, int | str], ...] = (
            *_OPTIONS,
            ("grpc.keepalive_timeout_ms", pong),
            ("grpc.http2.ping_timeout_ms", pong),
        )
        if is_spread(target) and not is_pinned:
            self._options = (*self._options, ("grpc.service_config", _SERVICE_CONFIG))
        if server_name is not None:
            self._options = (*self._options, ("grpc.ssl_target_name_override", server_name))
        self._authorization: tuple[tuple[str, str], ...] = ()
        if token is not None:
            _check_token(token)
            self._authorization = (("authorization", f"Bearer {token}"),)
        self.metadata = self._introduction()
        """Of each call, from this process."""
        self._credentials = _credentials(tls)
        # One attribute, replaced as a whole: a lock could be held by a thread that a fork left
        # behind. Two threads of a child may each make a channel; either serves.
        self._owned = (os.getpid(), self._connect())
        self._inherited: list[grpc.Channel] = []
        self._is_closed = False

    def channel(self) -> grpc.Channel:
        """This process's channel.

        Raises:
            ClientClosed: the client has been closed.
        """
        if self._is_closed:
            raise ClientClosed("the client has been closed")
        pid, channel = self._owned
        if pid != os.getpid():
            # Kept, because its destructor would wait for threads that only the parent has.
            self._inherited.append(channel)
            channel = self._connect()
            self.metadata = self._introduction()
            self._owned = (os.getpid(), channel)
        return channel

    def close(self) -> None:
        """Closes this process's channel; calls in flight are cancelled."""
        self._is_closed = True
        pid, channel = self._owned
        if pid == os.getpid():
            channel.close()

    def _introduction(self) -> tuple[tuple[str, str], ...]:
        return (*self._authorization, (connections.CLIENT_HEADER, secrets.token_hex(8)))

    def _connect(self) -> grpc.Channel:
        if self._credentials is None:
            return grpc.insecure_channel(self.target, self._options)
        return grpc.secure_channel(self.target, self._credentials, self._options)


def is_spread(target: str) -> bool:
    """Whether a target may be several servers that take calls in turn."""
    return target.startswith(_SPREAD)


def warn_of_plain_token(target: str, token: str | None, tls: Tls | None, stacklevel: int) -> None:
    """Warns of a token that others on the way to another machine can read."""
    if token is not None and (tls is None or tls is False) and not _is_local(target):
        warnings.warn(
            f"the token travels to {target} in plain text, where others can read it; pass tls=",
            stacklevel=stacklevel + 1,
        )


def _is_local(target: str) -> bool:
    """Whether a target is on this machine, as far as its text says."""
    if target.startswith("unix"):
        return True
    addresses = _SCHEME.sub("", target).split(",")
    return all(_is_loopback(_host(each)) for each in addresses)


def _host(address: str) -> str:
    """An address without its port, if it has one, and without brackets."""
    host, colon, _port = address.rpartition(":")
    has_port = colon and (host.endswith("]") or ":" not in host)
    return (host if has_port else address).strip("[]")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def _check_token(token: str) -> None:
    """A token travels in a header, which cannot carry everything; it is not told in the message."""
    is_visible = isinstance(token, str) and all("!" <= character <= "~" for character in token)
    if not token or not is_visible:
        raise InvalidInput(
            "token: expected visible ASCII characters, received something else, such as the end of"
            " a line"
        )


def _credentials(tls: Tls | None) -> grpc.ChannelCredentials | None:
    if tls is None or tls is False:
        return None
    if tls is True:
        return grpc.ssl_channel_credentials()
    if isinstance(tls, grpc.ChannelCredentials):
        return tls
    try:
        authorities = Path(tls).read_bytes()
        # Here, since gRPC says of a file of nothing that there is no server.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(tls)
    except (OSError, TypeError) as error:
        raise InvalidInput(
            f"tls: expected a readable file of certificate authorities, received {tls} ({error})"
        ) from error
    return grpc.ssl_channel_credentials(authorities)
