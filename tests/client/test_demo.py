"""The demo: its model, its losses, and a short run of it."""

import numpy as np
import pytest
from typer.testing import CliRunner

from losswire.cli import app
from losswire.demo.model import LAYERS, Classifier, initial_parameters
from losswire.demo.training import Digits
from losswire.demo.workers import Shard, Workers, local_loss, remote_loss


def test_back_propagation_is_the_derivative():
    """The model's gradient equals central differences of a weighted sum of its logits."""
    random = np.random.default_rng(0)
    parameters = initial_parameters(1).astype(np.float64)
    images, weights = random.random((3, LAYERS[0])), random.normal(size=(3, LAYERS[-1]))
    model = Classifier(parameters)
    model.logits(images)
    gradient = model.gradient(weights)
    for index in random.integers(0, parameters.size, 30):
        step = np.zeros_like(parameters)
        step[index] = 1e-6
        up = (Classifier(parameters + step).logits(images) * weights).sum()
        down = (Classifier(parameters - step).logits(images) * weights).sum()
        assert gradient[index] == pytest.approx((up - down) / 2e-6, abs=1e-8)


def test_both_losses_agree(client):
    """The loss from the server and the one computed in the worker differ by rounding alone."""
    random = np.random.default_rng(2)
    logits = random.normal(size=(32, 10)).astype(np.float32)
    labels = random.integers(0, 10, 32)
    remote, remote_grad = remote_loss(client)(logits, labels, 96)
    local, local_grad = local_loss(logits, labels, 96)
    assert remote == pytest.approx(local, rel=1e-6)
    # A few float32 roundings of values up to 1 / 96
    np.testing.assert_allclose(remote_grad, local_grad, atol=4 * 2**-24 / 96)


def test_workers_share_a_batch(server):
    """The parts that the workers compute add up to the loss and gradient of the whole batch."""
    digits = Digits.load()
    whole = Shard(digits.train.images[:60], digits.train.labels[:60])
    parameters = initial_parameters(3)
    shards = [Shard(whole.images[i::3], whole.labels[i::3]) for i in range(3)]
    with Workers(shards, server.target) as workers:
        loss, gradient = workers.step(parameters, [np.arange(20)] * 3)
    model = Classifier(parameters)
    expected, grad_logits = local_loss(model.logits(whole.images), whole.labels, 60)
    assert loss == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(gradient, model.gradient(grad_logits), atol=1e-7)


def test_digits_are_dealt_out_once():
    """Shards are disjoint, equal to within one image, and make up the training set."""
    digits = Digits.load()
    shards = digits.shards(3)
    assert len(digits.train.labels) + len(digits.test.labels) == 1797
    assert sum(len(shard.labels) for shard in shards) == len(digits.train.labels)
    assert np.ptp([len(shard.labels) for shard in shards]) <= 1


def test_a_short_run(server, tmp_path):
    """Three epochs over a server: progress, picture and last line are there."""
    picture = tmp_path / "curve.png"
    arguments = ["demo", "--target", server.target, "--epochs", "3", "--plot", str(picture)]
    ran = CliRunner().invoke(app, arguments)
    assert "epoch   3  loss " in ran.output, ran.output
    last = ran.output.strip().splitlines()[-1].split()
    assert " ".join(last[:2]) == "test accuracy"
    assert float(last[2].rstrip(",")) > 0.8
    assert int(last[3]) == 3 * 14 * 3  # epochs, steps an epoch, workers
    assert float(last[-1]) <= 1e-5
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_server_that_is_not_there():
    """The demo says which address it could not reach, in one line, with status 1."""
    ran = CliRunner().invoke(app, ["demo", "--target", "127.0.0.1:1"])
    assert ran.exit_code == 1
    assert "losswire demo: 127.0.0.1:1: " in ran.output
    assert "Traceback" not in ran.output
