"""The client in JavaScript, beside the one in Python: the same bits, and errors that say why."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import losswire

ROOT = Path(__file__).parents[2]
NODE = shutil.which("node")
INSTALLED = (ROOT / "examples/node/node_modules").exists()

pytestmark = pytest.mark.skipif(
    not (NODE and INSTALLED), reason="`make node-test` installs Node.js and what the client needs"
)


def asked(server, *questions):
    """The answers of the JavaScript client to some questions."""
    lines = "".join(json.dumps(question) + "\n" for question in questions)
    ended = subprocess.run(
        [NODE, ROOT / "tests/node/ask.mjs", server.target],
        input=lines, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return [json.loads(line) for line in ended.stdout.splitlines()]


def question(logits, ids, reduction):
    return {
        "dtype": str(logits.dtype),
        "logits": logits.ravel().astype(float).tolist(),
        "shape": logits.shape,
        "ids": ids.ravel().tolist(),
        "reduction": reduction,
    }


def read(answer, dtype):
    """An array as the script wrote it, digit for digit."""
    return np.array(answer["values"], dtype).reshape(answer["shape"])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("reduction", ["NONE", "SUM", "MEAN"])
def test_both_clients_get_the_same_bits(server, client, dtype, reduction):
    """Losses, gradients and their shapes, of rank 2 and 3."""
    random = np.random.default_rng(0)
    problems = [
        (random.normal(size=(*shape, 11)).astype(dtype), random.integers(0, 11, shape))
        for shape in ((7,), (2, 3))
    ]
    answers = asked(server, *(question(*problem, reduction) for problem in problems))
    for (logits, ids), answer in zip(problems, answers, strict=True):
        expected = client.softmax_cross_entropy(logits, ids, reduction=reduction.lower())
        for name in ("per_example", "grad_logits", "loss"):
            camel = {"per_example": "perExample", "grad_logits": "gradLogits"}.get(name, name)
            if name == "loss" and reduction == "NONE":
                assert answer["loss"] is None
                continue
            wanted = np.asarray(getattr(expected, name))
            got = read(answer[camel], dtype)
            assert got.shape == wanted.shape
            assert got.tobytes() == wanted.tobytes()


def test_errors_say_why(server, client):
    """The server's text, as Python's client raises it, and the sender's own of a wrong shape."""
    logits = np.zeros((2, 3), np.float32)
    with pytest.raises(losswire.InvalidInput) as raised:
        client.softmax_cross_entropy(logits, np.array([0, 3]))
    wrong_shape = question(logits, np.array([0, 1, 2]), "NONE")
    answers = asked(server, question(logits, np.array([0, 3]), "NONE"), wrong_shape)
    assert answers[0] == {"code": 3, "message": str(raised.value)}
    assert answers[1]["message"] == "shape: expected 3 elements, received [2]"


def test_the_example_prints_the_worked_example(server):
    """What docs/wire.md shows."""
    ended = subprocess.run(
        [NODE, ROOT / "examples/node/example.js"], env={"LOSSWIRE_TARGET": server.target},
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    assert "0.46436876058" in ended.stdout
    assert ended.stdout.splitlines()[-1].startswith("mean      0.82231")
