"""Clients that data sets hold, in workers that are started anew."""

import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from operator import methodcaller

import grpc
import numpy as np
import pytest

import losswire


@pytest.mark.parametrize("way", ["spawn", "forkserver"])
def test_a_client_reaches_workers(client, way):
    """As how it was made: each worker connects by itself, and the first client goes on."""
    ask = methodcaller("softmax", [[1.0, 2.0, 4.0]])
    expected = ask(client)
    with ProcessPoolExecutor(2, multiprocessing.get_context(way)) as workers:
        for answer in workers.map(ask, [client] * 4):
            assert np.array_equal(answer, expected)
    assert np.array_equal(ask(client), expected)


@pytest.mark.parametrize("kind", [losswire.Client, losswire.AsyncClient])
def test_another_like_it(kind, server):
    """All that it was made with comes along; what it was resolved to, too."""
    options = {
        "timeout": 7.0,
        "transport": "inline",
        "token": "0123456789abcdef",
        "tls": None,
        "retries": False,
    }
    first = kind(server.target, **options)
    second = pickle.loads(pickle.dumps(first))  # noqa: S301 -- our own
    assert type(second) is kind
    assert second.target == first.target
    assert second._made_by.keywords == options


def test_credentials_are_made_anew_by_whoever_has_them(server):
    """gRPC's own objects cannot be sent; paths of certificates can."""
    client = losswire.Client(server.target, tls=grpc.ssl_channel_credentials())
    with pytest.raises(TypeError):
        pickle.dumps(client)
