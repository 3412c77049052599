"""`losswire loss`: losses and gradients of tensors in files, whatever their size."""

import json

import ml_dtypes
import numpy as np
import pytest
from typer.testing import CliRunner

import losswire
from losswire.cli import app
from losswire.evaluate import blocks, files

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
LOGITS = np.float32([[2.0, 1.0, 0.5], [1.0, 0.5, 0.0]])
IDS = np.array([0, 1])


def evaluated(server, *arguments):
    ran = CliRunner().invoke(app, ["loss", *map(str, arguments), "--target", server.target])
    return ran.exit_code, ran.output


def saved(folder, **arrays):
    paths = []
    for name, array in arrays.items():
        paths.append(folder / f"{name}.npy")
        np.save(paths[-1], array)
    return paths


def safetensors(path, **tensors):
    """A file of that format, written by its definition."""
    names = {"float32": "F32", "bfloat16": "BF16", "int64": "I64"}
    header, data = {"__metadata__": {"by": "hand"}}, b""
    for name, array in tensors.items():
        end = len(data) + array.nbytes
        header[name] = {
            "dtype": names[array.dtype.name],
            "shape": array.shape,
            "data_offsets": [len(data), end],
        }
        data += array.tobytes()
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + data)
    return path


def lines(output):
    return dict(line.split(maxsplit=1) for line in output.splitlines())


def test_a_known_answer(server, tmp_path):
    """The worked example: its mean, its losses and its gradient."""
    logits, ids = saved(tmp_path, logits=LOGITS, ids=IDS)
    status, output = evaluated(
        server, "softmax_cross_entropy", logits, ids,
        "--losses", tmp_path / "losses.npy", "--gradient", tmp_path / "grad.npy",
    )  # fmt: skip
    assert status == 0, output
    told = lines(output)
    assert told["examples"] == "2"
    assert float(told["loss"]) == pytest.approx(0.8223192273748397, rel=1e-6)
    np.testing.assert_allclose(
        np.load(tmp_path / "losses.npy"), [0.4643687841079449, 1.1802696706417346], rtol=1e-6
    )
    row = [-0.37146828078823757, 0.23122389762214904, 0.14024438316608848]
    np.testing.assert_allclose(np.load(tmp_path / "grad.npy")[0], np.divide(row, 2), rtol=1e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "grad.npy", "ids.npy", "logits.npy", "losses.npy",
    ]  # fmt: skip


CASES = {
    "mean": ("softmax_cross_entropy", "ids", ["--option", "ignore_index=3"], {"ignore_index": 3}),
    "size": (
        "softmax_cross_entropy",
        "ids",
        ["--option", "normalizer=size", "--option", "ignore_index=3"],
        {"normalizer": "size", "ignore_index": 3},
    ),
    "out of range": (
        "softmax_cross_entropy",
        "wild",
        ["--option", "out_of_range=ignore"],
        {"out_of_range": "ignore"},
    ),
    "distributions": (
        "softmax_cross_entropy",
        "soft",
        ["--option", "label_smoothing=0.1"],
        {"label_smoothing": 0.1},
    ),
    "elements": ("sigmoid_cross_entropy", "soft", [], {}),
    "focal": ("focal", "ids", ["--option", "gamma=1.5"], {"gamma": 1.5}),
    "shared labels": ("softmax_cross_entropy", "one", [], {}),
    "weights": ("softmax_cross_entropy", "ids", ["--option", "normalizer=weights"],
                {"normalizer": "weights"}),
}  # fmt: skip


@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("case", CASES)
def test_blocks_have_what_the_whole_has(server, tmp_path, monkeypatch, case, reduction):
    """Tensors of several blocks: the losses and gradients of one call."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 4096)
    method, labels, arguments, keywords = CASES[case]
    random = np.random.default_rng(3)
    logits = random.standard_normal((1003, 11), np.float32)
    given = {
        "ids": random.integers(0, 11, 1003),
        "wild": random.integers(-3, 14, 1003),
        "soft": random.dirichlet(np.ones(11), 1003).astype(np.float32),
        "one": random.dirichlet(np.ones(11)).astype(np.float32),
    }[labels]
    paths = saved(tmp_path, logits=logits, labels=given)
    status, output = evaluated(
        server, method, *paths, "--reduction", reduction, *arguments,
        "--gradient", tmp_path / "grad.npy", "--losses", tmp_path / "losses.npy",
    )  # fmt: skip
    assert status == 0, output
    with losswire.Client(server.target) as client:
        expected = getattr(client, method)(logits, given, reduction=reduction, **keywords)
    assert np.load(tmp_path / "losses.npy").tobytes() == expected.per_example.tobytes()
    # A mean of blocks has one rounding more.
    np.testing.assert_allclose(
        np.load(tmp_path / "grad.npy"), expected.grad_logits, rtol=1e-6, atol=1e-12
    )
    if reduction == "none":
        assert float(lines(output)["sum"]) == pytest.approx(
            float(expected.per_example.sum(dtype=float)), rel=1e-12
        )
    else:
        assert float(lines(output)["loss"]) == pytest.approx(float(expected.loss), rel=1e-6)


@pytest.mark.parametrize("axis", [0, 1])
def test_other_axes(server, tmp_path, monkeypatch, axis):
    """Rows along the first axis are cut where that is not the class axis."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 4096)
    logits = np.random.default_rng(4).standard_normal((50, 7, 9), np.float32)
    ids = np.zeros(np.delete(logits.shape, axis), np.int64)
    paths = saved(tmp_path, logits=logits, ids=ids)
    status, output = evaluated(
        server, "softmax_cross_entropy", *paths, "--axis", axis, "--gradient", tmp_path / "g.npy"
    )
    assert status == 0, output
    with losswire.Client(server.target) as client:
        expected = client.softmax_cross_entropy(logits, ids, axis=axis, reduction="mean")
    np.testing.assert_allclose(np.load(tmp_path / "g.npy"), expected.grad_logits, rtol=1e-6)


def test_outputs(server, tmp_path):
    """Softmax has no labels and no loss; its output goes where gradients do."""
    [logits] = saved(tmp_path, logits=np.float32([[2, 1, 0.1]]))
    status, output = evaluated(server, "softmax", logits, "--gradient", tmp_path / "p.npy")
    assert (status, lines(output)["examples"]) == (0, "1")
    known = [[0.6590011388859679, 0.24243297070471392, 0.09856589040931818]]
    np.testing.assert_allclose(np.load(tmp_path / "p.npy"), known, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), BFLOAT16], ids=str)
def test_safetensors(server, tmp_path, dtype):
    """Tensors of one file by name, bfloat16 among them; their gradient in a .npy file."""
    path = safetensors(tmp_path / "t.safetensors", z=LOGITS.astype(dtype), y=IDS)
    status, output = evaluated(
        server, "softmax_cross_entropy", f"{path}:z", f"{path}:y", "--gradient", tmp_path / "g.npy"
    )
    assert status == 0, output
    with losswire.Client(server.target) as client:
        expected = client.softmax_cross_entropy(LOGITS.astype(dtype), IDS, reduction="mean")
    assert float(lines(output)["loss"]) == float(expected.loss)
    assert np.load(tmp_path / "g.npy").tobytes() == expected.grad_logits.tobytes()
    again, output = evaluated(server, "softmax", tmp_path / "g.npy")
    assert again == 0, output


def test_npz(server, tmp_path):
    """A name is needed where there are several tensors, and only there."""
    np.savez(tmp_path / "both.npz", z=LOGITS, y=IDS)
    np.savez_compressed(tmp_path / "one.npz", z=LOGITS)
    both, one = tmp_path / "both.npz", tmp_path / "one.npz"
    assert evaluated(server, "softmax_cross_entropy", one, f"{both}:y")[0] == 0
    status, line = evaluated(server, "softmax_cross_entropy", both, f"{both}:y")
    assert status == 2
    assert "expected one of its tensors by name" in line
    assert "there are: z, y" in line


def test_files_are_not_loaded_whole(tmp_path):
    """What is read is a view of the file."""
    [path] = saved(tmp_path, logits=LOGITS)
    tensors = safetensors(tmp_path / "t.safetensors", z=LOGITS)
    assert isinstance(files.read(str(path)), np.memmap)
    assert isinstance(files.read(str(tensors)), np.memmap)


def broken(folder):
    """Arguments that are wrong, and a part of what is said."""
    good, ids = saved(folder, good=LOGITS, ids=IDS)
    cut = folder / "cut.npy"
    cut.write_bytes(good.read_bytes()[:-5])
    text = folder / "text.npy"
    text.write_text("no tensor")
    objects = folder / "objects.npy"
    np.save(objects, np.array([{}], dtype=object))
    short = folder / "short.safetensors"
    short.write_bytes(b"\x10\0\0")
    ends = safetensors(folder / "ends.safetensors", z=LOGITS)
    ends.write_bytes(ends.read_bytes()[:-1])
    zipped = folder / "zipped.npz"
    zipped.write_bytes(b"PK")
    plain = ["softmax_cross_entropy", good, ids]
    return {
        "no such loss": (["softmin", good, ids], "name: expected one of"),
        "no such file": (["softmax", folder / "missing.npy"], "No such file"),
        "another suffix": (["softmax", folder], "expected a .npy, .npz or .safetensors file"),
        "cut off": (["softmax", cut], "cannot be read as .npy"),
        "text": (["softmax", text], "cannot be read as .npy"),
        "objects": (["softmax", objects], "cannot be read as .npy"),
        "short header": (["softmax", short], "truncated"),
        "cut tensors": (["softmax", ends], "truncated, or not as its header says"),
        "no zip": (["softmax", zipped], "cannot be read as .npz"),
        "no labels": (plain[:2], "labels: expected a file for softmax_cross_entropy"),
        "a name for .npy": (["softmax", f"{good}:z"], "holds one tensor, without a name"),
        "no option": ([*plain, "--option", "softcap"], "expected NAME=VALUE"),
        "unknown option": ([*plain, "--option", "depth=3"], "depth"),
        "bad option": ([*plain, "--option", "label_smoothing=2"], "label_smoothing: expected"),
        "bad reduction": ([*plain, "--reduction", "max"], "reduction: expected"),
        "bad shapes": (["softmax_cross_entropy", good, good, "--axis", "5"], "axis"),
    }


@pytest.mark.parametrize("case", [
    "no such loss", "no such file", "another suffix", "cut off", "text", "objects", "short header",
    "cut tensors", "no zip", "no labels", "a name for .npy", "no option", "unknown option",
    "bad option", "bad reduction", "bad shapes",
])  # fmt: skip
def test_what_is_wrong_is_one_line(server, tmp_path, case):
    """Status 2, the reason, and no file."""
    arguments, words = broken(tmp_path)[case]
    before = sorted(tmp_path.iterdir())
    out = tmp_path / "out.npy"
    status, line = evaluated(server, *arguments, "--gradient", out, "--losses", out)
    assert (status, line.count("\n")) == (2, 1), line
    assert words in line
    assert sorted(tmp_path.iterdir()) == before


def test_a_server_that_is_away(tmp_path):
    """Status 1 and one line; nothing is left behind."""
    logits, ids = saved(tmp_path, logits=LOGITS, ids=IDS)
    arguments = ["softmax_cross_entropy", logits, ids, "--target", "127.0.0.1:1", "--timeout", "1"]
    arguments += ["--gradient", tmp_path / "grad.npy"]
    ran = CliRunner().invoke(app, ["loss", *map(str, arguments)])
    assert (ran.exit_code, ran.output.count("\n")) == (1, 1), ran.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ids.npy", "logits.npy"]
