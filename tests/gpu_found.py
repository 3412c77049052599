"""For tests that need a GPU: there is one, or they skip, or fail where there has to be one."""

import os

import pytest

from losswire_server.engine.cupy_engine import find_gpus


def found_gpu() -> str:
    """What was found, in words."""
    count, words = find_gpus()
    if not count and os.environ.get("REQUIRE_GPU"):
        pytest.fail(f"the driver has a GPU, but {words}")
    if not count:
        pytest.skip(words)
    return words
