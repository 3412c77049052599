"""The examples that train with a framework learn what they are to learn."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TIMES = r"one after the other \d+\.\d ms a step, prefetched \d+\.\d ms\n"
ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def printed_by(example, *arguments, **environment):
    """What an example prints."""
    ran = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{example}.py"), *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.parametrize(
    ("example", "package", "environment"),
    [
        ("torch_digits", "torch", {}),
        ("jax_digits", "optax", {}),
        ("tensorflow_digits", "tensorflow", {}),
        ("keras_digits", "tensorflow", {"KERAS_BACKEND": "tensorflow"}),
        ("keras_digits", "jax", {"KERAS_BACKEND": "jax"}),
        ("keras_digits", "torch", {"KERAS_BACKEND": "torch"}),
    ],
)
def test_digits(server, example, package, environment):
    """Nearly all digits, with every loss from the server; guessing has one of ten right."""
    pytest.importorskip(package, reason="make test-frameworks installs it")
    printed = printed_by(example, LOSSWIRE_TARGET=server.target, **environment)
    accuracy = re.fullmatch(r"loss 0\.\d{4}, test accuracy (0\.\d{4})\n", printed)
    assert accuracy, printed
    assert float(accuracy[1]) > 0.93


def test_prefetch(server):
    """Losses that were waited for and losses that were prefetched make the same weights."""
    pytest.importorskip("torch", reason="make test-frameworks installs it")
    arguments = ("--steps", "2", "--micro-batches", "3", "--rows", "4")
    printed = printed_by("prefetch", *arguments, LOSSWIRE_TARGET=server.target)
    assert re.fullmatch(TIMES + r"gain -?\d+\.\d%, weights equal\n", printed), printed


@pytest.mark.parametrize(
    ("package", "theirs"),
    [("torch", "torch.nn"), ("jax", "optax"), ("tensorflow", "tf.nn"), ("keras", "keras.losses")],
)
def test_one_line_changes(package, theirs):
    """Both sides of a change that the README shows exist, and differ in where they come from."""
    pytest.importorskip(package, reason="make test-frameworks installs it")
    line = re.search(rf"^-.*\n\+.*?(losswire\.{package})\.(\w+)\(.*", README, flags=re.MULTILINE)
    assert line
    before, after = line[0].splitlines()
    assert before[1:].replace(theirs, line[1]) == after[1:]
    module = __import__(line[1], fromlist=[line[2]])
    assert callable(getattr(module, line[2]))
