"""How a client is let in: tokens and authorities that cannot be, before anything is sent."""

import pytest

import losswire

NOBODY = "127.0.0.1:1"


@pytest.mark.parametrize("token", ["secret\n", "sec ret", "secr\N{SNOWMAN}t", "", b"secret"])
def test_tokens_that_no_header_carries(token):
    """They are refused at once, and not repeated in the message."""
    with pytest.raises(losswire.InvalidInput, match=r"^token: expected visible ASCII") as caught:
        losswire.Client(NOBODY, token=token)
    assert "sec" not in str(caught.value)


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
