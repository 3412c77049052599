"""Which engine serves, and what is said about it."""

import re
import sys
import types

import pytest

from losswire_server.engine.cupy_engine import find_gpu
from losswire_server.engine.selection import choose_engine
from losswire_server.errors import StartupError


class CUDARuntimeError(RuntimeError):
    """Stands for CuPy's."""


@pytest.fixture
def fake_cupy(monkeypatch):
    """A CuPy that finds what the test says."""

    def install(count):
        def device_count():
            if isinstance(count, Exception):
                raise count
            return count

        runtime = types.SimpleNamespace(
            getDeviceCount=device_count,
            getDeviceProperties=lambda _index: {"name": b"Imaginary GPU"},
            CUDARuntimeError=CUDARuntimeError,
        )
        cupy = types.SimpleNamespace(cuda=types.SimpleNamespace(runtime=runtime))
        monkeypatch.setitem(sys.modules, "cupy", cupy)

    return install


def test_numpy_when_asked_for():
    """NumPy needs no look for a GPU."""
    engine, reason = choose_engine("numpy", 1)
    assert (engine.name, reason) == ("numpy", "asked for")
    engine.close()


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "CuPy is not installed"),
        (0, "CuPy finds no GPU"),
        (CUDARuntimeError("driver too old"), "no usable CUDA driver: driver too old"),
        (1, "Imaginary GPU.*computes on the CPU only"),
    ],
    ids=["no CuPy", "no GPU", "no driver", "GPU"],
)
def test_the_reason_is_said(fake_cupy, monkeypatch, found, words):
    """auto serves with NumPy and says why; cupy is an error that says the same."""
    if found is None:
        monkeypatch.setitem(sys.modules, "cupy", None)
    else:
        fake_cupy(found)
    engine, reason = choose_engine("auto", 1)
    engine.close()
    assert engine.name == "numpy"
    with pytest.raises(StartupError, match=f"cupy cannot be used: .*{words}"):
        choose_engine("cupy", 1)
    assert re.search(words, reason)


@pytest.mark.gpu
def test_a_real_gpu_is_found_by_name():
    """On a machine with a GPU and CuPy, the GPU is found."""
    pytest.importorskip("cupy")
    name, words = find_gpu()
    if name is None:
        pytest.skip(words)
    assert name in words
