"""The adapter that a module of tests is about."""

from importlib import import_module

import pytest

import losswire


@pytest.fixture
def ours(request, client):
    """The adapter that the module names in `ADAPTER`, which asks the tests' server."""
    losswire.set_default_client(client)
    yield import_module(request.module.ADAPTER)
    losswire.set_default_client(None)
