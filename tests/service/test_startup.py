"""What cannot start: the command ends with status 2 and one line that says what to do.

And what can: it is there for others once it has computed.
"""

import asyncio
import os
import socket
import subprocess
import sys
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives import serialization

from losswire_server import runtime
from losswire_server.config import load_settings
from losswire_server.engine.numpy_engine import NumpyEngine
from pem import Authority

SECRET = "a-secret-that-nobody-has-to-know"  # noqa: S105 -- it opens nothing


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files that are good, bad, empty and of others."""
    folder = tmp_path_factory.mktemp("files")
    for name in ("ours", "theirs"):
        Authority(folder / name).write_server()
    Authority(folder / "old").write_server(
        not_before=datetime(2020, 1, 1, tzinfo=UTC), not_after=datetime(2020, 4, 1, tzinfo=UTC)
    )
    (folder / "empty").touch()
    (folder / "text").write_text("no certificate", encoding="ascii")
    (folder / "tokens").write_text(f"{SECRET}\nshort {SECRET}\n", encoding="ascii")
    (folder / "unknown.toml").write_text("max_message_byte = 5\n", encoding="ascii")
    (folder / "broken.toml").write_text("port = \n", encoding="ascii")
    (folder / "zero.toml").write_text('token_file = "a\\u0000b"\n', encoding="ascii")
    os.mkfifo(folder / "pipe")
    (folder / "type.toml").write_text('port = "many"\n', encoding="ascii")
    (folder / "locked.key").write_bytes(locked((folder / "ours/server.key").read_bytes()))
    return folder


def locked(key):
    """A key that needs a password."""
    return serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )


def said_by(*arguments, **variables):
    """What the command says at its end, which has to be one line and status 2."""
    command = [sys.executable, "-m", "losswire", "serve", "--log-level", "error", *arguments]
    ended = subprocess.run(
        command,
        env=os.environ | variables,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 2, ended.stderr
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith("losswire serve: ")
    assert SECRET not in line
    return line.removeprefix("losswire serve: ")


def pair(certificate, key):
    """Flags for TLS with files of the folder."""
    return f"--tls-certificate={{folder}}/{certificate} --tls-key={{folder}}/{key}"


CASES = {
    # addresses
    "--port 70000": "port: Input should be less than or equal to 65535, received '70000'",
    "--host 203.0.113.1 --insecure": "cannot listen on 203.0.113.1:50051: Cannot assign requested",
    "--host 0.0.0.0": "0.0.0.0 is reached from other machines, in plain text; set"
    " --tls-certificate and --tls-key, or accept it with --insecure",
    "--host ::": ":: is reached from other machines, in plain text",
    "--host no.such.host.invalid": "host: 'no.such.host.invalid' cannot be resolved: ",
    "--host two..dots": "host: 'two..dots' cannot be resolved: ",
    "--unix-socket {folder}/none/socket": "cannot listen on unix:{folder}/none/socket: No such",
    "--unix-socket {folder}/text": "cannot listen on unix:{folder}/text: there is a file",
    "--unix-socket {folder}/" + "a" * 99: ": AF_UNIX path too long; choose another with --port,",
    "--unix-socket {folder}/socket --unix-socket-mode rw": "unix_socket_mode: ",
    # certificates
    pair("none.pem", "ours/server.key"): "tls_certificate: cannot read {folder}/none.pem: No such"
    " file or directory; name a PEM file",
    pair("ours", "ours/server.key"): "tls_certificate: cannot read {folder}/ours: Is a directory",
    pair("pipe", "ours/server.key"): "tls_certificate: {folder}/pipe is a pipe; name a PEM file",
    pair("empty", "ours/server.key"): "tls_certificate: {folder}/empty holds no certificate",
    pair("text", "ours/server.key"): "tls_certificate: {folder}/text holds no certificate; name a",
    pair("ours/server.key", "ours/server.key"): "tls_certificate: {folder}/ours/server.key holds",
    pair("ours/server.pem", "text"): "tls_key: {folder}/text holds no private key without",
    pair("ours/server.pem", "locked.key"): "tls_key: {folder}/locked.key holds no private key",
    pair("ours/server.pem", "theirs/server.key"): "tls_key: {folder}/theirs/server.key is not the"
    " key of {folder}/ours/server.pem; name the two that belong together",
    pair("old/server.pem", "old/server.key"): "tls_certificate: {folder}/old/server.pem has expired"
    " on 2020-04-01T00:00:00+00:00; name one that is good",
    "--tls-certificate {folder}/ours/server.pem": "tls_key: not set, but tls_certificate is;",
    "--tls-key {folder}/ours/server.key": "tls_certificate: not set, but tls_key is;",
    "--tls-client-ca {folder}/ours/authority.pem": "tls_certificate: not set, but tls_client_ca",
    pair("ours/server.pem", "ours/server.key") + " --tls-client-ca {folder}/text": "tls_client_ca:"
    " {folder}/text holds no certificate; name a PEM file",
    pair("ours/server.pem", "ours/server.key") + " --unix-socket {folder}/socket": "unix_socket:"
    " set, and so is tls_certificate",
    # tokens
    "--token-file {folder}/none": "token_file: cannot read {folder}/none: No such file or",
    "--token-file {folder}/pipe": "token_file: {folder}/pipe is a pipe; name a file with one token",
    "--token-file {folder}/empty": "token_file: {folder}/empty holds no token; write one a line",
    "--token-file {folder}/tokens": "token_file: line 2 of {folder}/tokens: expected a token of at",
    # limits
    "--queue-bytes 1000000 --max-message-bytes 2000000": "max_message_bytes: expected at most"
    " queue_bytes (1000000), since no larger request is ever admitted, received 2000000; lower it",
    "--queue-bytes 10000000000000000000": "queue_bytes: Input should be less than or equal to 1152",
    "--shared-directory {folder} --max-region-bytes 0": "shared_directory: set, but max_region",
    # settings
    "--config {folder}/none.toml": "config: cannot read {folder}/none.toml: ",
    "--config {folder}/broken.toml": "config: cannot read {folder}/broken.toml: ",
    "--config {folder}/zero.toml": "token_file: Value error, a path holds no zero byte, received",
    "--config {folder}/type.toml": "port: Input should be a valid integer",
    "--config {folder}/unknown.toml": "max_message_byte: no such setting; the nearest is"
    " max_message_bytes, `losswire serve --help` lists all",
    "--max-message-byte 5": "max_message_byte: no such setting; the nearest is max_message_bytes",
    "--no-reflectio": "reflectio: no such setting; the nearest is reflection",
    "--engine tpu": "engine: Input should be 'auto', 'numpy' or 'cupy', received 'tpu'",
    "--port": "argument --port: expected one argument",
    "--config": "argument --config: expected one argument",
    "stray": "unrecognized arguments: stray",
    # the engine
    "--engine cupy": "engine: cupy cannot be used: ",
}


@pytest.mark.parametrize(("flags", "words"), CASES.items(), ids=CASES)
def test_one_line_that_says_what_to_do(folder, flags, words):
    """Each mistake is named with what was given, and nothing else is printed."""
    assert words.format(folder=folder) in said_by(*flags.format(folder=folder).split())


def test_mistakes_in_the_environment(folder):
    """Variables, and a file that one of them names, are held to the same."""
    assert said_by(LOSSWIRE_PORT="many").startswith("port: Input should be a valid integer")
    assert said_by(LOSSWIRE_TOKENFILE="tokens") == (
        "LOSSWIRE_TOKENFILE: no such setting; the nearest is token_file, `losswire serve --help`"
        " lists all"
    )
    unknown = said_by(LOSSWIRE_CONFIG=str(folder / "unknown.toml"))
    assert unknown.startswith("max_message_byte: no such setting; the nearest is max_message_bytes")


def test_a_taken_port():
    """The address is named, and how to choose another."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert said_by("--port", str(port)) == (
            f"cannot listen on 127.0.0.1:{port}: Address already in use;"
            " choose another with --port, --host or --unix-socket"
        )


def test_files_that_may_not_be_read(folder):
    """A file of someone else is named with the reason."""
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    path = folder / "unreadable"
    path.touch(0o000)
    assert said_by("--token-file", str(path)).startswith(f"token_file: cannot read {path}: Permis")


def test_nobody_can_connect_before_the_warm_up_has_ended(tmp_path, monkeypatch):
    """While the engine computes for the first time there is no socket to knock at."""
    path, seen, stop = tmp_path / "socket", [], asyncio.Event()

    class Engine(NumpyEngine):
        """Looks for the socket meanwhile."""

        def compute(self, requests):
            results = super().compute(requests)
            seen.append(path.exists())
            return results

    def on_ready(_target):
        seen.append("ready" if path.exists() else "ready, and not there")
        stop.set()

    monkeypatch.setattr(runtime, "choose_engine", lambda *_arguments: (Engine(threads=1), "ours"))
    asyncio.run(runtime.serve(load_settings(unix_socket=path, drain_seconds=1.0), stop, on_ready))
    assert seen[-1] == "ready"
    assert not any(seen[:-1])
    assert len(seen) > 1
