"""`losswire check`: whether a server is ready, as an exit status and one line."""

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from typer.testing import CliRunner

from losswire.cli import app
from losswire_server import LocalServer
from pem import Authority


def checked(*arguments, **environment):
    ran = CliRunner().invoke(app, ["check", *arguments], env=environment)
    return ran.exit_code, ran.output


@pytest.fixture
def answering():
    """A health service that answers what the test sets, or not at all."""
    server = grpc.server(ThreadPoolExecutor(2))
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield target, servicer
    server.stop(None).wait()


def test_a_server_that_serves(server):
    """Status 0, by flag or by the environment."""
    serves = (0, f"{server.target}: SERVING\n")
    assert checked("--target", server.target) == serves
    assert checked(LOSSWIRE_TARGET=server.target) == serves


def test_a_unix_socket(tmp_path):
    """As for any target."""
    with LocalServer(engine="numpy", unix_socket=tmp_path / "socket") as running:
        assert checked("--target", running.target)[0] == 0


def test_a_server_that_does_not_serve(answering):
    """Starting or draining is status 1."""
    target, servicer = answering
    servicer.set("", health_pb2.HealthCheckResponse.NOT_SERVING)
    assert checked("--target", target) == (1, f"{target}: NOT_SERVING\n")


def test_nobody_there():
    """Status 1 and one line that names the target."""
    status, line = checked("--target", "127.0.0.1:1")
    assert status == 1
    assert line.startswith("losswire check: 127.0.0.1:1: ")
    assert line.count("\n") == 1


def test_a_server_that_never_answers():
    """Status 1 after the time that was given."""

    def silent(_request, context):
        answered.append(context.time_remaining())
        context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "too late")

    answered = []
    server = grpc.server(ThreadPoolExecutor(2))
    handlers = {"Check": grpc.unary_unary_rpc_method_handler(silent)}
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("grpc.health.v1.Health", handlers)]
    )
    target = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    outcome = checked("--target", target, "--timeout", "7")
    server.stop(None).wait()
    assert outcome == (1, f"losswire check: {target}: no answer within 7 s\n")
    assert 0 < answered[0] < 8  # as the server counts them


def test_authorities_that_cannot_be_read(tmp_path):
    """Status 2, and what was expected."""
    status, line = checked("--target", "x:1", "--ca", str(tmp_path / "missing.pem"))
    assert status == 2
    assert "expected a readable file of certificate authorities" in line


@pytest.fixture(scope="module")
def public(tmp_path_factory):
    """A server whose certificate is for a public name, and what it was started with."""
    settings = Authority(tmp_path_factory.mktemp("public")).write_server("*.loss.example")
    with LocalServer(engine="numpy", **settings) as running:
        yield running, settings


def test_a_server_with_a_certificate_for_another_name(public):
    """The certificate itself, or its authority and the name; no other name will do."""
    running, settings = public
    certificate = str(settings["tls_certificate"])
    authority = str(settings["tls_certificate"].with_name("authority.pem"))
    serves = (0, f"{running.target}: SERVING\n")
    at = {"LOSSWIRE_TARGET": running.target}
    assert checked(**at, LOSSWIRE_TLS_CERTIFICATE=certificate) == serves
    assert checked("--server-certificate", certificate, **at) == serves
    named = {"LOSSWIRE_CHECK_CA": authority, "LOSSWIRE_CHECK_SERVER_NAME": "one.loss.example"}
    assert checked(**at, **named) == serves
    assert checked("--server-name", "loss.example", **at, **named)[0] == 1
    assert checked(**at, LOSSWIRE_CHECK_CA=authority)[0] == 1
    # What is asked for goes before what happens to be set for a server.
    assert checked("--tls", **at, LOSSWIRE_TLS_CERTIFICATE=certificate)[0] == 1


def test_a_server_of_another_certificate_is_not_trusted(public, tmp_path):
    """Though it has the same name."""
    running, _settings = public
    other = Authority(tmp_path).write_server("*.loss.example")["tls_certificate"]
    assert checked("--target", running.target, "--server-certificate", str(other))[0] == 1


def test_a_server_that_wants_certificates(tmp_path):
    """The check shows its own where it is given one, and is refused where it is not."""
    authority = Authority(tmp_path)
    settings = authority.write_server("loss.example")
    shown = Authority(tmp_path / "clients")
    own = shown.write_server("check.example")
    environment = {
        "LOSSWIRE_TLS_CERTIFICATE": str(settings["tls_certificate"]),
        "LOSSWIRE_CHECK_CERTIFICATE": str(own["tls_certificate"]),
        "LOSSWIRE_CHECK_KEY": str(own["tls_key"]),
    }
    with LocalServer(engine="numpy", tls_client_ca=shown.file, **settings) as running:
        environment["LOSSWIRE_TARGET"] = running.target
        assert checked(**environment)[0] == 0
        half = environment | {"LOSSWIRE_CHECK_KEY": None}
        assert checked(**half) == (
            2,
            "losswire check: certificate, key: expected both or neither\n",
        )
        nothing = half | {"LOSSWIRE_CHECK_CERTIFICATE": None}
        assert checked(**nothing)[0] == 1
    missing = environment | {"LOSSWIRE_CHECK_KEY": str(tmp_path / "none")}
    status, line = checked(**missing)
    assert status == 2
    assert f"received {tmp_path / 'none'} (No such file" in line


def test_a_socket_beside_a_certificate(tmp_path):
    """On a Unix socket there is no TLS, whatever is set."""
    with LocalServer(engine="numpy", unix_socket=tmp_path / "socket") as running:
        named = {"LOSSWIRE_TLS_CERTIFICATE": str(tmp_path / "none.pem")}
        assert checked("--target", running.target, **named)[0] == 0
