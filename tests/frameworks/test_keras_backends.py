"""`losswire.keras` on the frameworks that Keras computes with; it reads which when imported."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("keras", reason="make test-frameworks installs it")

FOLDER = Path(__file__).parent
LONG = 400
"""Seconds after which a run has failed; it takes a fraction of that."""


def on_backend(backend, *command):
    """What a command prints where Keras computes with a backend."""
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", *command],
        env=os.environ | {"KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.timeout(LONG)
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_adapter_on(backend):
    """All that the adapter's tests hold, on the backends that Keras does not take by default."""
    pytest.importorskip(backend, reason="make test-frameworks installs it")
    printed = on_backend(backend, "-m", "pytest", "-q", str(FOLDER / "test_keras_adapter.py"))
    assert re.search(r"^\d\d+ passed in", printed, flags=re.MULTILINE), printed


def test_other_adapters_are_not_loaded():
    """A program with Keras on JAX needs neither TensorFlow nor PyTorch for its losses."""
    script = (
        "import sys, losswire.keras._backend as seam; seam.backend()\n"
        "print(*sorted({name.split('.')[1] for name in sys.modules if name.startswith('losswire.')}"
        " & {'tensorflow', 'jax', 'torch'}))"
    )
    assert on_backend("jax", "-c", script) == "jax\n"


def test_other_backends_are_refused():
    """In words, before anything is sent."""
    script = (
        "import losswire, losswire.keras\n"
        "try: losswire.keras.binary_crossentropy([[1.0]], [[0.5]])\n"
        "except losswire.InvalidInput as error: print(error)\n"
    )
    words = "backend: expected Keras on one of ('tensorflow', 'jax', 'torch'), received 'numpy'\n"
    assert on_backend("numpy", "-c", script) == words
