"""The examples that train with a framework learn what they are to learn."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("example", "package"), [("torch_digits", "torch"), ("jax_digits", "optax")]
)
def test_digits(server, example, package):
    """Nineteen of twenty digits, with every loss from the server."""
    pytest.importorskip(package, reason="make test-frameworks installs it")
    ran = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{example}.py")],
        env=os.environ | {"LOSSWIRE_TARGET": server.target},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    accuracy = re.fullmatch(r"loss 0\.\d{4}, test accuracy (0\.\d{4})\n", ran.stdout)
    assert accuracy, ran.stdout
    assert float(accuracy[1]) > 0.95


@pytest.mark.parametrize("package", ["torch", "jax"])
def test_one_line_changes(package):
    """Both sides of a change that the README shows exist, and differ in where they come from."""
    pytest.importorskip(package, reason="make test-frameworks installs it")
    line = re.search(rf"^-.*\n\+.*?(losswire\.{package})\.(\w+)\(", README, flags=re.MULTILINE)
    assert line
    before, after = line[0].splitlines()
    assert re.sub(r"torch\.nn|optax", line[1], before[1:]).startswith(after[1:])
    module = __import__(line[1], fromlist=[line[2]])
    assert callable(getattr(module, line[2]))
