"""Where the server listens, and who can get there."""

import os
import socket
import stat

import pytest

import losswire
from losswire_server import LocalServer, listening
from losswire_server.config import load_settings
from losswire_server.errors import StartupError
from losswire_server.listening import check_exposure

EVERY = "0.0.0.0"  # noqa: S104 -- what has to be meant
LOGITS, IDS = [[2.0, 1.0, 0.5]], [0]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "::1", "[::1]"])
def test_plain_text_stays_on_this_host(host):
    """Loopback addresses need no flag, however they are written."""
    check_exposure(load_settings(host=host))


@pytest.mark.parametrize("host", [EVERY, "::", "[::]", "203.0.113.1", "::ffff:203.0.113.1"])
def test_plain_text_for_other_hosts_has_to_be_meant(host):
    """Every other address is refused, unless it is protected or someone has said so."""
    with pytest.raises(StartupError, match="--insecure"):
        check_exposure(load_settings(host=host))
    check_exposure(load_settings(host=host, insecure=True))
    check_exposure(load_settings(host=host, tls_certificate="cert", tls_key="key"))
    check_exposure(load_settings(host=host, unix_socket="/run/losswire"))


def test_a_reachable_address_serves_with_the_flag():
    """With --insecure all interfaces are served."""
    with LocalServer(engine="numpy", host=EVERY, insecure=True) as server:
        port = server.target.rsplit(":", 1)[1]
        with losswire.Client(f"127.0.0.1:{port}") as client:
            assert client.softmax_cross_entropy(LOGITS, IDS).loss.shape == (1,)


@pytest.mark.parametrize(("settings", "mode"), [({}, 0o600), ({"unix_socket_mode": "0660"}, 0o660)])
def test_a_socket_is_its_owners_unless_told_otherwise(tmp_path, settings, mode):
    """Whatever the umask, the file's mode is the one that is set, 0600 if none is."""
    path = tmp_path / "socket"
    before = os.umask(0)
    try:
        with LocalServer(engine="numpy", unix_socket=path, **settings):
            assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        os.umask(before)


def test_a_socket_is_never_open_to_others(tmp_path):
    """It is made with the mode 0600, not made and then closed: a connection could come between."""
    path = tmp_path / "socket"
    modes = []

    class Port:
        def add_insecure_port(self, address):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.bind(address.removeprefix("unix:"))
            modes.append(stat.S_IMODE(path.stat().st_mode))
            return 1

    server = Port()
    before = os.umask(0)
    try:
        listening.bind(server, load_settings(unix_socket=path, unix_socket_mode="666"), None)
        assert os.umask(0) == 0, "the umask of the process is not what it was"
    finally:
        os.umask(before)
        server.socket.close()
    assert modes == [0o600]
    assert stat.S_IMODE(path.stat().st_mode) == 0o666


def test_a_file_that_is_no_socket_is_kept(tmp_path):
    """A mistyped path costs nobody a file."""
    path = tmp_path / "notes"
    path.write_text("notes", encoding="ascii")
    with pytest.raises(StartupError, match="there is a file that is no socket"):
        LocalServer(engine="numpy", unix_socket=path)
    assert path.read_text(encoding="ascii") == "notes"


class Nothing:
    """A gRPC server that is satisfied with anything."""

    def add_insecure_port(self, address):
        return int(address.rsplit(":", 1)[1])


def two_addresses(monkeypatch, *addresses):
    """A name with two addresses."""
    monkeypatch.setattr(
        listening.socket,
        "getaddrinfo",
        lambda _host, port, **_rest: [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses
        ],
    )
    return load_settings(host="two.example")


def test_one_address_of_a_name_that_is_taken_is_one_too_many(monkeypatch):
    """A name with two addresses is refused when another server has one of them."""
    settings = two_addresses(monkeypatch, "127.0.0.1", "127.0.0.2")
    for taken_address in ("127.0.0.1", "127.0.0.2"):
        with socket.create_server((taken_address, 0)) as taken:
            at = settings.model_copy(update={"port": taken.getsockname()[1]})
            with pytest.raises(StartupError, match="Address already in use"):
                listening.bind(Nothing(), at, None)


def test_one_address_of_a_name_that_is_not_here_is_left_out(monkeypatch):
    """As where a name has an IPv6 address and the machine has none; without any it is refused."""
    settings = two_addresses(monkeypatch, "127.0.0.1", "203.0.113.1")
    free = settings.model_copy(update={"port": 0})
    assert listening.bind(Nothing(), free, None) == "two.example:0"
    two_addresses(monkeypatch, "203.0.113.1", "203.0.113.2")
    with pytest.raises(StartupError, match="Cannot assign requested address"):
        listening.bind(Nothing(), free, None)
