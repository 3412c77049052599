"""What commands share: where their token comes from, which is no option that `ps` would show."""

import numpy as np
import pytest
from typer.testing import CliRunner

import losswire
from losswire._commands import read_token
from losswire.cli import app
from losswire_server import LocalServer

TOKEN = "a-token-of-commands"  # noqa: S105 -- it opens the server below alone


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "token"
    path.write_text(f" {TOKEN} \nanother line\n", encoding="ascii")
    return path


def test_a_file_goes_before_the_environment(token_file, monkeypatch):
    """The first line of the file, else LOSSWIRE_TOKEN, else none."""
    assert read_token(None) is None
    monkeypatch.setenv("LOSSWIRE_TOKEN", "of-the-environment")
    assert read_token(None) == "of-the-environment"
    assert read_token(token_file) == TOKEN
    monkeypatch.setenv("LOSSWIRE_TOKEN", "")
    assert read_token(None) is None


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (None, "No such file"),
        (b"", "expected a token in the first line"),
        (b"\nsecret", "expected a token in the first line"),
        (b"secret\xff", "it is not ASCII"),
    ],
)
def test_files_that_hold_no_token(tmp_path, contents, words):
    """The file is named, and never what stands there."""
    path = tmp_path / "token"
    if contents is not None:
        path.write_bytes(contents)
    with pytest.raises(losswire.InvalidInput, match=rf"^token-file: .*{words}") as caught:
        read_token(path)
    assert "secret" not in str(caught.value)


def test_commands_call_with_it(token_file, tmp_path):
    """By file or environment, and without it they are refused; there is no option for a token."""
    logits = tmp_path / "logits.npy"
    np.save(logits, np.zeros((2, 3), np.float32))
    commands = {
        "loss": ["loss", "softmax", str(logits), "--reduction", "none"],
        "bench": ["bench", "--shape", "2x3", "--requests", "1", "--warm-up", "0"],
    }
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN, encoding="ascii")
    with LocalServer(engine="numpy", token_file=tokens) as server:
        for arguments in commands.values():
            asked = [*arguments, "--target", server.target]

            def ended(*more, token=None, asked=asked):
                return CliRunner().invoke(app, [*asked, *more], env={"LOSSWIRE_TOKEN": token})

            assert ended("--token-file", str(token_file)).exit_code == 0
            assert ended(token=TOKEN).exit_code == 0
            refused = ended()
            assert refused.exit_code in {1, 2}
            assert "authorization: expected `Bearer`" in refused.output
            assert "No such option" in ended("--token", TOKEN).output
