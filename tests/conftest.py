"""What tests share: a real server in a child process, and clients of it."""

import gc
import os

import pytest

import losswire
from losswire_server import LocalServer
from shared_memory import open_here


@pytest.fixture(scope="session", autouse=True)
def _own_environment():
    """Settings of whoever runs the tests do not reach them."""
    for name in [name for name in os.environ if name.startswith("LOSSWIRE_")]:
        del os.environ[name]


@pytest.fixture(scope="session")
def server(_own_environment):
    """A server with default settings on a free port, for all tests that only ask it things."""
    with LocalServer(engine="numpy") as running:
        yield running


@pytest.fixture
def client(server):
    """A synchronous client of `server`."""
    with losswire.Client(server.target) as connected:
        yield connected


@pytest.fixture
def nothing_is_left():
    """Whatever was announced, refused or killed: no descriptor and no mapping stays."""
    gc.collect()
    before = open_here()
    yield
    gc.collect()
    assert open_here() == before
