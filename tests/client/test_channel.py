"""How a client connects and is let in: targets, pings, tokens and authorities."""

import json

import pytest

import losswire
from losswire import _channel
from losswire_proto import connections
from losswire_server import runtime
from losswire_server.config import load_settings

NOBODY = "127.0.0.1:1"


@pytest.mark.parametrize("token", ["secret\n", "sec ret", "secr\N{SNOWMAN}t", "", b"secret"])
def test_tokens_that_no_header_carries(token):
    """They are refused at once, and not repeated in the message."""
    with pytest.raises(losswire.InvalidInput, match=r"^token: expected visible ASCII") as caught:
        losswire.Client(NOBODY, token=token)
    assert "sec" not in str(caught.value)


@pytest.mark.parametrize(
    "target",
    ["loss.example:1", "dns:///loss.example:1", "ipv4:127.0.0.1:1,10.0.0.1:1", "[2001:db8::1]:1"],
)
def test_a_token_in_plain_text_to_another_machine(target):
    """Is warned of, where the client is made; over TLS it is not."""
    with pytest.warns(UserWarning, match="token travels to .* in plain text") as caught:
        losswire.Client(target, token="s3cret").close()
    assert [each.filename for each in caught] == [__file__]
    assert "s3cret" not in str(caught[0].message)
    losswire.Client(target, token="s3cret", tls=True).close()
    losswire.Client(target).close()


@pytest.mark.parametrize(
    "target",
    ["localhost:1", "127.0.0.2:1", "[::1]:1", "::1", "unix:/none", "dns:///localhost:1",
     "dns://8.8.8.8/localhost:1", "ipv4:127.0.0.1:1,127.0.0.2:1", "ipv6:[::1]:1"],
)  # fmt: skip
def test_a_token_that_stays_on_this_machine(target):
    """Nobody can listen in: there is nothing to warn of."""
    losswire.Client(target, token="s3cret").close()


def test_each_client_in_each_process_has_a_name(monkeypatch):
    """So that a server at a Unix socket can tell them apart; it goes with the token."""
    made = [_channel.Connection(NOBODY, "s3cret", None, timeout=30.0) for _ in range(2)]
    before = [connection.metadata for connection in made]
    monkeypatch.setattr(_channel.os, "getpid", lambda: 1)  # as after a fork
    for connection in made:
        connection.channel()
    sent = [dict(each) for each in (*before, *(connection.metadata for connection in made))]
    assert len({each[connections.CLIENT_HEADER] for each in sent}) == 4
    assert {each["authorization"] for each in sent} == {"Bearer s3cret"}
    assert all(
        0 < len(each[connections.CLIENT_HEADER]) <= connections.LONGEST_CLIENT for each in sent
    )


def test_authorities_that_cannot_be_read(tmp_path):
    """The file is named, and why it cannot be read."""
    with pytest.raises(losswire.InvalidInput, match=r"^tls: .*none\.pem .*No such file"):
        losswire.Client(NOBODY, tls=tmp_path / "none.pem")
    with pytest.raises(losswire.InvalidInput, match=r"^tls: .*Is a directory"):
        losswire.Client(NOBODY, tls=tmp_path)


def test_authorities_that_are_none(tmp_path):
    """A file that holds no certificate is named, instead of a server that is not to blame."""
    path = tmp_path / "notes.txt"
    path.write_text("no certificate", encoding="ascii")
    with pytest.raises(losswire.InvalidInput, match=r"^tls: .*notes\.txt"):
        losswire.Client(NOBODY, tls=path)


@pytest.fixture
def made(monkeypatch):
    """The options of each channel that is made."""
    options = []
    make = _channel.grpc.insecure_channel

    def channel(target, given):
        options.append(dict(given))
        return make(target, given)

    monkeypatch.setattr(_channel.grpc, "insecure_channel", channel)
    return options


@pytest.mark.parametrize(
    "target", ["dns:///name:1", "ipv4:127.0.0.1:1,127.0.0.2:2", "ipv6:[::1]:1"]
)
def test_several_servers_take_calls_in_turn(made, target):
    """Names and lists are balanced by round robin and health; shared memory stays with one."""
    losswire.Client(target).close()
    spread, pinned = made
    config = json.loads(spread["grpc.service_config"])
    assert config["loadBalancingConfig"] == [{"round_robin": {}}]
    assert config["healthCheckConfig"] == {"serviceName": "losswire.v1.LossService"}
    assert "grpc.service_config" not in pinned


@pytest.mark.parametrize("target", ["localhost:1", "unix:/tmp/x", "127.0.0.1:1"])
def test_one_server_has_one_channel(made, target):
    """A single address has one connection, for everything."""
    losswire.Client(target).close()
    assert len(made) == 1
    assert "grpc.service_config" not in made[0]


def test_pings_are_permitted(made, monkeypatch):
    """A client pings no more often than a server permits; both notice that the other is gone."""
    losswire.Client("localhost:1").close()
    taken = {}

    def server(options, **_others):
        taken.update(options)
        raise InterruptedError

    monkeypatch.setattr(runtime.grpc.aio, "server", server)
    with pytest.raises(InterruptedError):
        runtime._grpc_server(load_settings(), [], None, None)
    permitted = taken["grpc.http2.min_ping_interval_without_data_ms"]
    # One late and the next in time would look like two in quick succession.
    assert made[0]["grpc.keepalive_time_ms"] >= 2 * permitted
    assert made[0]["grpc.http2.max_pings_without_data"] == 0
    for options in (made[0], taken):
        assert options["grpc.keepalive_timeout_ms"] == options["grpc.http2.ping_timeout_ms"]
    assert taken["grpc.keepalive_time_ms"] < 300_000


@pytest.mark.parametrize(
    ("timeout", "pong"), [(0.01, 10), (30.0, 10), (60.0, 20), (90.0, 30), (1e9, 60)]
)
def test_who_gives_calls_more_time_waits_longer_for_pongs(made, timeout, pong):
    """Where a network is slow, the answer to a ping stands behind what is on its way before it."""
    losswire.Client("localhost:1", timeout=timeout).close()
    assert made[0]["grpc.http2.ping_timeout_ms"] == 1000 * pong
    assert made[0]["grpc.keepalive_time_ms"] == 10_000
