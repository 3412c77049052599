"""TLS between the client and a real server: who trusts whom, and certificates that change."""

import socket
import ssl
from datetime import UTC, datetime, timedelta

import pytest
import structlog.testing

import losswire
from losswire_server import LocalServer, certificates
from losswire_server.config import load_settings
from losswire_server.errors import StartupError
from pem import Authority, replace

LOGITS, IDS = [[2.0, 1.0, 0.5]], [0]
SHORT = 10.0
"""Seconds to wait for a server that turns out not to be one's own."""


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("theirs"))


@pytest.fixture(scope="module")
def tls_server(authority):
    """A server with a certificate, that wants none of clients."""
    with LocalServer(engine="numpy", **authority.write_server()) as running:
        yield running


def certificate_of(server):
    """What a new connection is shown, not looked into."""
    host, port = server.target.rsplit(":", 1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection((host, int(port)), timeout=30) as plain,
        context.wrap_socket(plain) as wrapped,
    ):
        return wrapped.getpeercert(binary_form=True)


def in_der(pem_file):
    """The first certificate of a file, as connections show it."""
    first = pem_file.read_text(encoding="ascii").split("-----END")[0] + "-----END CERTIFICATE-----"
    return ssl.PEM_cert_to_DER_cert(first)


def refused(target, **options):
    """Whether a client's call finds no server that it can talk to."""
    with losswire.Client(target, timeout=SHORT, **options) as client:
        with pytest.raises(losswire.ServerUnavailable) as caught:
            client.server_info()
        return target in str(caught.value)


def test_a_client_that_trusts_the_authority_is_served(tls_server, authority):
    """With the authority's file, small calls and streams go over TLS."""
    with losswire.Client(tls_server.target, tls=authority.file) as client:
        assert client.softmax_cross_entropy(LOGITS, IDS).loss.shape == (1,)
    with losswire.Client(tls_server.target, tls=authority.file, transport="stream") as client:
        assert client.softmax_cross_entropy(LOGITS, IDS).loss.shape == (1,)


def test_who_does_not_trust_the_server_sends_it_nothing(tls_server, stranger):
    """Another authority's trust, and the system's, find no server of theirs there."""
    assert refused(tls_server.target, tls=stranger.file)
    assert refused(tls_server.target, tls=True)


def test_plain_text_is_not_answered(tls_server):
    """A client without TLS gets nothing from a server with it."""
    assert refused(tls_server.target)


def test_the_wrong_name_is_refused(tmp_path):
    """A certificate that is not this address's is not taken, though its authority is trusted."""
    authority = Authority(tmp_path)
    with LocalServer(engine="numpy", **authority.write_server("elsewhere.example")) as server:
        assert refused(server.target, tls=authority.file)


def test_clients_need_a_certificate_where_the_server_asks_for_one(authority, stranger):
    """With a client authority, only those it has certified are served, health checks included."""
    settings = authority.write_server() | {"tls_client_ca": authority.file}
    with LocalServer(engine="numpy", **settings) as server:
        with losswire.Client(server.target, tls=authority.client()) as client:
            assert client.softmax_cross_entropy(LOGITS, IDS).loss.shape == (1,)
        assert refused(server.target, tls=authority.file)
        assert refused(server.target, tls=stranger.client(trusts=authority.pem))


def test_files_may_have_remarks(tmp_path):
    """Bundles of authorities name them, in whatever alphabet; both sides read them."""
    authority = Authority(tmp_path)
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(
        f"# Autorit\N{LATIN SMALL LETTER E WITH ACUTE}\n{authority.pem.decode()}", "utf-8"
    )
    settings = authority.write_server() | {"tls_client_ca": bundle}
    with (
        LocalServer(engine="numpy", **settings) as server,
        losswire.Client(server.target, tls=authority.client(trusts=bundle.read_bytes())) as client,
    ):
        assert client.softmax_cross_entropy(LOGITS, IDS).loss.shape == (1,)
    losswire.Client(server.target, tls=bundle).close()


def test_new_connections_see_a_new_certificate_and_old_ones_live_on(tmp_path):
    """Files are replaced without a restart; a call of before and a call of after both succeed."""
    authority = Authority(tmp_path)
    settings = authority.write_server()
    with (
        LocalServer(engine="numpy", **settings) as server,
        losswire.Client(server.target, tls=authority.file) as old,
    ):
        old.softmax_cross_entropy(LOGITS, IDS)
        first = certificate_of(server)
        assert first == in_der(settings["tls_certificate"])
        authority.write_server()
        second = certificate_of(server)
        assert second == in_der(settings["tls_certificate"]) != first
        with losswire.Client(server.target, tls=authority.file) as new:
            assert new.softmax_cross_entropy(LOGITS, IDS).loss.shape == (1,)
        assert old.softmax_cross_entropy(LOGITS, IDS).loss.shape == (1,)


def test_a_new_client_authority_counts_from_the_next_connection(tmp_path):
    """Clients of the former authority are not let in any more, those of the new one are."""
    former, later = Authority(tmp_path / "former"), Authority(tmp_path / "later")
    trusted = tmp_path / "clients.pem"
    trusted.write_bytes(former.pem)
    settings = former.write_server() | {"tls_client_ca": trusted}
    with LocalServer(engine="numpy", **settings) as server:
        with losswire.Client(server.target, tls=former.client()) as client:
            client.softmax_cross_entropy(LOGITS, IDS)
        replace(trusted, later.pem)
        with losswire.Client(server.target, tls=later.client(trusts=former.pem)) as client:
            client.softmax_cross_entropy(LOGITS, IDS)
        assert refused(server.target, tls=former.client())


def test_files_that_do_not_belong_together_change_nothing(tmp_path):
    """Between the replacement of certificate and key, and after a bad one, the old pair serves."""
    authority, log = Authority(tmp_path), (tmp_path / "log").open("w+", encoding="utf-8")
    settings = authority.write_server()
    with log, LocalServer(engine="numpy", log=log, **settings) as server:
        before = certificate_of(server)
        key = settings["tls_key"].read_bytes()
        authority.write_server()
        new_key = replace(tmp_path / "kept", settings["tls_key"].read_bytes()).read_bytes()
        replace(settings["tls_key"], key)
        assert certificate_of(server) == before
        replace(settings["tls_key"], b"no key at all")
        assert certificate_of(server) == before
        replace(settings["tls_key"], new_key)
        assert certificate_of(server) == in_der(settings["tls_certificate"]) != before
        log.seek(0)
        said = log.read()
    assert said.count("reload_failed") == 2
    assert said.count("reloaded ") == 1
    assert "PRIVATE KEY" not in said


NOW = datetime.now(UTC)
DAY = timedelta(days=1)


def credentials(settings):
    """What is said in the log where credentials are made of a certificate."""
    with structlog.testing.capture_logs() as said:
        assert certificates.server_credentials(load_settings(**settings)) is not None
    return [line["event"] for line in said]


@pytest.mark.parametrize(
    ("begins", "ends", "words"),
    [
        (NOW - 9 * DAY, NOW - DAY, "has expired on"),
        (NOW + DAY, NOW + 9 * DAY, "is not valid before"),
    ],
)
def test_a_certificate_that_is_not_good_now(tmp_path, begins, ends, words):
    """The server does not start with one, and goes on with a good one that it is to replace."""
    authority, log = Authority(tmp_path), (tmp_path / "log").open("w+", encoding="utf-8")
    settings = authority.write_server()
    with log, LocalServer(engine="numpy", log=log, **settings) as server:
        before = certificate_of(server)
        authority.write_server(not_before=begins, not_after=ends)
        assert certificate_of(server) == before
        log.seek(0)
        assert words in log.read()
    with pytest.raises(StartupError, match=f"^tls_certificate: .*server.pem {words}") as caught:
        LocalServer(engine="numpy", **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("life", "left", "events"),
    [
        (90 * DAY, 15 * DAY, []),
        (90 * DAY, 13 * DAY, ["expires_soon"]),
        (DAY, DAY / 2, []),  # a short-lived one has two thirds of its time
        (DAY, DAY / 4, ["expires_soon"]),
    ],
)
def test_a_certificate_that_expires_soon_is_said(tmp_path, life, left, events):
    """A warning in the log, in time to replace it."""
    ends = NOW + left
    settings = Authority(tmp_path).write_server(not_before=ends - life, not_after=ends)
    assert credentials(settings) == events


def test_a_certificate_that_comes_to_its_last_days_is_said_once(tmp_path, monkeypatch):
    """At a handshake then, also of the one that replaces it, and of none twice."""
    fetches = []

    def made(_first, fetch, **_options):
        fetches.append(fetch)
        return object()

    monkeypatch.setattr(certificates.grpc, "dynamic_ssl_server_credentials", made)
    authority = Authority(tmp_path)
    settings = authority.write_server(not_before=NOW - 60 * DAY, not_after=NOW + 20 * DAY)
    assert credentials(settings) == []
    (fetch,) = fetches
    with structlog.testing.capture_logs() as said:
        assert fetch() is None
        authority.write_server(not_before=NOW - 60 * DAY, not_after=NOW + 3 * DAY)
        assert fetch() is not None
        assert fetch() is None
        monkeypatch.setattr(certificates, "datetime", Later)
        authority.write_server(not_before=NOW - 60 * DAY, not_after=NOW + 20 * DAY)
        assert fetch() is not None
        assert fetch() is None
    events = [line["event"] for line in said]
    assert events == ["reloaded", "expires_soon", "reloaded", "expires_soon"]


class Later(datetime):
    """A clock ten days on."""

    @classmethod
    def now(cls, zone=None):
        return datetime.now(zone) + 10 * DAY
