"""What fails on the shared stream: single requests, all that is on it, or the stream itself."""

import grpc
import pytest

import losswire
from fake_server import IDS, LOGITS, FakeServer, played, started

fake = pytest.fixture(played)


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (3, losswire.InvalidInput, "^what$"),
        (4, losswire.DeadlineExceeded, r"no answer from 127.* within 30 s: what$"),
        (7, losswire.PermissionDenied, "127.*: what"),
        (8, losswire.ServerBusy, "127.*: what"),
        (12, losswire.ServerError, "127.*: what"),
        (13, losswire.ServerError, "127.*: what"),
        (14, losswire.ServerUnavailable, "127.*: what"),
        (16, losswire.Unauthenticated, "127.*: what"),
        (99, losswire.ServerError, "127.*: what"),
    ],
)
def test_errors_of_single_requests(fake, code, kind, words):
    """Each is the error that the same status of a unary call would be; the stream goes on."""
    with losswire.Client(fake.target, retries=False) as client:
        for _ in range(2):
            outcomes = started(client)
            (request,) = fake.requests(1)
            fake.refuse(request.id, code, "what", retry_delay_ms=70)
            error = outcomes.get(timeout=30)
            assert type(error) is kind
            with pytest.raises(kind, match=words):
                raise error
        if kind is losswire.ServerBusy:
            assert error.retry_delay == pytest.approx(0.07)
        assert fake.metadata.qsize() == 1
        assert fake.unary_calls == 0


def test_a_status_of_the_stream_fails_what_is_on_it(fake):
    """All calls in flight get it; the next call opens another stream."""
    with losswire.Client(fake.target, retries=False) as client:
        for count in (1, 3):
            outcomes = started(client, count)
            fake.requests(count)
            fake.replies.put((grpc.StatusCode.UNAVAILABLE, "the server is draining"))
            errors = [outcomes.get(timeout=30) for _ in range(count)]
            assert [type(error) for error in errors] == [losswire.ServerUnavailable] * count
            assert "the server is draining" in str(errors[0])


def test_a_stream_that_ends_without_an_answer(fake):
    """A server that ends the stream and says nothing was unavailable."""
    with losswire.Client(fake.target, retries=False) as client:
        outcomes = started(client)
        fake.requests(1)
        fake.replies.put(None)
        error = outcomes.get(timeout=30)
        assert isinstance(error, losswire.ServerUnavailable)
        assert "without an answer" in str(error)


def test_a_server_without_the_stream():
    """An older server is asked call by call, and the stream is not tried again."""
    with FakeServer(has_many=False) as fake, losswire.Client(fake.target) as client:
        for count in (1, 2):
            with pytest.raises(losswire.InvalidInput, match="asked alone"):
                client.softmax_cross_entropy(LOGITS, IDS)
            assert fake.unary_calls == count
        assert not client._paths._has_many


def test_a_server_that_takes_small_messages_only(fake):
    """Where the messages that calls share are too large, each call has its own."""
    with losswire.Client(fake.target) as client:
        outcomes = started(client)
        fake.requests(1)
        refusal = "Received message larger than max (5000 vs. 4096)"
        fake.replies.put((grpc.StatusCode.RESOURCE_EXHAUSTED, refusal))
        assert "asked alone" in str(outcomes.get(timeout=30))
