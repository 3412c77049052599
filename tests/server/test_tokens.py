"""Tokens: what a file may hold, and what is made of what a call carries."""

import hmac

import pytest

from losswire_server import tokens
from losswire_server.errors import StartupError
from losswire_server.tokens import is_known, presented, read_digests

FIRST, SECOND = b"first-token-of-two", b"second-token-of-two"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "tokens"
    path.write_bytes(b"\n  " + FIRST + b"  \r\n\n" + SECOND)
    return path


def test_one_token_a_line(path):
    """Lines without a token and blanks around one do not count; each token is known."""
    digests = read_digests(path)
    assert len(digests) == 2
    assert is_known(FIRST, digests)
    assert is_known(SECOND, digests)


@pytest.mark.parametrize(
    "token", [b"", FIRST[:-1], FIRST + b"x", b" " + FIRST, FIRST.upper(), FIRST + b"\n" + SECOND]
)
def test_other_tokens_are_not_known(path, token):
    """Neither a beginning, nor an end, nor another case of a token is the token."""
    assert not is_known(token, read_digests(path))


@pytest.mark.parametrize("token", [FIRST, SECOND, b"unknown"])
def test_a_token_is_compared_with_all(path, monkeypatch, token):
    """Whichever is right, or none: each is compared, in constant time, and none is left out."""
    compared = []
    original = hmac.compare_digest

    def compare(known, digest):
        compared.append(known)
        assert len(known) == len(digest)
        return original(known, digest)

    digests = read_digests(path)
    monkeypatch.setattr(tokens.hmac, "compare_digest", compare)
    is_known(token, digests)
    assert tuple(compared) == digests


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (b"", "holds no token; write one a line"),
        (b" \n\n", "holds no token"),
        (FIRST + b"\nshort-secret", "line 2 of .*: expected a token of at least 16"),
        (FIRST + b"\nsecret with blanks in it", "line 2 of .*visible ASCII"),
        ("secret-of-another-alphabet-\N{SNOWMAN}".encode(), "line 1 of .*visible ASCII"),
    ],
)
def test_files_that_hold_something_else(tmp_path, contents, words):
    """File and line are named, and what is wrong; what stands there is not."""
    path = tmp_path / "tokens"
    path.write_bytes(contents)
    with pytest.raises(StartupError, match=f"^token_file: .*{words}") as caught:
        read_digests(path)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("metadata", "token"),
    [
        ((("authorization", "Bearer abc"),), b"abc"),
        ((("other", "x"), ("authorization", "bearer  abc ")), b"abc"),
        (None, b""),
        ((), b""),
        ((("authorization", "abc"),), b""),
        ((("authorization", "Basic abc"),), b""),
        ((("authorization", "Bearer"),), b""),
        ((("authorization", "Bearer a"), ("authorization", "Bearer b")), b""),
        ((("authorization-bin", b"Bearer abc"),), b""),
    ],
)
def test_what_a_call_carries(metadata, token):
    """A token is what follows `Bearer` in the one authorization that a call has."""
    assert presented(metadata) == token
