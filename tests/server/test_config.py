"""Settings: where they come from, in what order, and what is said of bad ones."""

import numpy as np
import pytest

from losswire._stream import BLOCK_BYTES
from losswire_proto.losses import LossCall, SigmoidCrossEntropy
from losswire_server import contradictions
from losswire_server.config import ServerSettings, load_settings
from losswire_server.errors import StartupError
from losswire_server.requests import LossRequest


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "losswire.toml"
    path.write_text('port = 1001\nmax_wait_us = 11\nlog_format = "json"\n', encoding="utf-8")
    return path


def test_flags_win_over_environment_over_file_over_defaults(config, monkeypatch):
    """Each source decides what those before it left open."""
    monkeypatch.setenv("LOSSWIRE_PORT", "2002")
    monkeypatch.setenv("LOSSWIRE_MAX_WAIT_US", "22")
    settings = load_settings(["--port", "3003", "--config", str(config)])
    assert settings.port == 3003
    assert settings.max_wait_us == 22
    assert settings.log_format == "json"
    assert settings.host == "127.0.0.1"


def test_the_file_may_be_named_by_the_environment(config, monkeypatch):
    """LOSSWIRE_CONFIG names the file as --config does."""
    monkeypatch.setenv("LOSSWIRE_CONFIG", str(config))
    assert load_settings().port == 1001


def test_keywords_stand_in_for_flags(monkeypatch):
    """Settings given as keywords win over the environment."""
    monkeypatch.setenv("LOSSWIRE_ENGINE", "auto")
    assert load_settings(engine="numpy", port=0).engine == "numpy"


def test_the_clients_variables_are_no_settings(monkeypatch):
    """What belongs to the client does not trouble the server."""
    monkeypatch.setenv("LOSSWIRE_TARGET", "elsewhere:1")
    monkeypatch.setenv("LOSSWIRE_TOKEN", "a token")
    for name in ("CA", "CERTIFICATE", "KEY", "SERVER_NAME"):
        monkeypatch.setenv(f"LOSSWIRE_CHECK_{name}", "of the check")
    assert load_settings().port == 50051


@pytest.mark.parametrize("name", ["TOKENFILE", "TOKEN_FILES", "TLS_CERT", "INSECURE_", "HOTS"])
def test_a_mistyped_variable_is_found(monkeypatch, name):
    """A variable that is nearly a setting stops the server: it could be the one that guards it."""
    monkeypatch.setenv(f"LOSSWIRE_{name}", "x")
    with pytest.raises(StartupError, match=f"LOSSWIRE_{name}: no such setting; the nearest is "):
        load_settings()


def test_variables_of_others_are_left_alone(monkeypatch):
    """What Kubernetes sets for a service called losswire is nobody's slip."""
    for name in ("SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_GRPC", "PORT_50051_TCP",
                 "PORT_50051_TCP_PROTO", "PORT_50051_TCP_PORT", "PORT_50051_TCP_ADDR"):  # fmt: skip
        monkeypatch.setenv(f"LOSSWIRE_{name}", "10.0.0.1")
    assert load_settings().port == 50051


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "70000"], "port: .*less than or equal to 65535.*'70000'"),
        (["--engine", "tpu"], "engine: .*'auto', 'numpy' or 'cupy'.*'tpu'"),
        (["--threads", "0"], "threads: .*greater than or equal to 1"),
        (["--config", "/nowhere.toml"], "config: cannot read /nowhere.toml"),
    ],
)
def test_bad_settings_are_one_line(arguments, words):
    """A setting outside what is allowed is named in one line."""
    with pytest.raises(StartupError, match=words) as caught:
        load_settings(arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"), [("prot = 1", "prot: no such setting"), ("port =", "cannot read")]
)
def test_bad_files_are_one_line(tmp_path, text, words):
    """An unknown setting in the file, or a file that is no TOML, stops the server."""
    path = tmp_path / "bad.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(StartupError, match=words):
        load_settings(["--config", str(path)])


def test_every_setting_is_described():
    """--help has words for every setting."""
    assert all(field.description for field in ServerSettings.model_fields.values())


def test_address():
    """The address is host and port, or the Unix socket where one is named."""
    assert load_settings(host="0.0.0.0", port=7).address == "0.0.0.0:7"  # noqa: S104 -- only text
    assert load_settings(unix_socket="/tmp/x").address == "unix:/tmp/x"  # noqa: S108 -- the same


def test_a_window_too_narrow_for_our_clients_is_doubted():
    """It serves others; the log says which setting refuses the largest blocks."""
    share = {"client_share": 0.25}
    assert not list(contradictions.doubts(load_settings(stream_bytes=192 << 20, **share)))
    (doubt,) = contradictions.doubts(load_settings(stream_bytes=(192 << 20) - 4, **share))
    assert f"is {(48 << 20) - 1} bytes, and blocks of the Python client take up to" in doubt


def test_the_largest_block_of_our_clients():
    """As admission counts it: that of a loss by element, with labels of the widest dtype."""
    half = np.zeros((BLOCK_BYTES // 2, 1), np.float16)
    call = LossCall(SigmoidCrossEntropy(), grad_logits=True, grad_labels=True)
    block = LossRequest(call, half, 1, half.astype(np.float64), "elements")
    assert block.nbytes == contradictions.LARGEST_BLOCK
