"""The training run: digits, shards, epochs, and what came of them.

In: workers. Out: one `Epoch` after another, then the trained parameters. Everything is seeded, so
two runs differ only in where the loss was computed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from losswire.demo.model import Classifier, Floats, initial_parameters
from losswire.demo.workers import Ids, Shard, Workers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SEED: Final = 7
LEARNING_RATE: Final = 0.1
MOMENTUM: Final = 0.9


@dataclass(frozen=True, slots=True)
class Digits:
    """scikit-learn's 1,797 scans of handwritten digits, every fifth held out for testing."""

    train: Shard
    test: Shard

    @classmethod
    def load(cls) -> Digits:
        """Reads the scans that scikit-learn ships; pixels scaled to [0, 1]."""
        from sklearn.datasets import load_digits  # noqa: PLC0415 -- takes a second to import

        pixels, labels = load_digits(return_X_y=True)
        images = (pixels / 16.0).astype(np.float32)
        order = np.random.default_rng(SEED).permutation(len(images))
        images, labels = images[order], labels[order].astype(np.int64)
        held_out = np.arange(len(images)) % 5 == 0
        return cls(
            Shard(images[~held_out], labels[~held_out]), Shard(images[held_out], labels[held_out])
        )

    def shards(self, workers: int) -> list[Shard]:
        """The training set dealt out to `workers`, equal to within one image."""
        return [
            Shard(self.train.images[start::workers], self.train.labels[start::workers])
            for start in range(workers)
        ]


@dataclass(frozen=True, slots=True)
class Epoch:
    """What one pass over the training set came to: mean loss, and accuracy on the test set."""

    number: int
    loss: float
    accuracy: float


@dataclass(slots=True)
class Run:
    """A training run.

    Attributes:
        losses: the loss of every step.
        epochs: what each epoch came to.
        parameters: as trained so far, `[parameters]`.
        requests: losses computed, one for each worker and step.
    """

    losses: list[float] = field(default_factory=list)
    epochs: list[Epoch] = field(default_factory=list)
    parameters: Floats = field(default_factory=lambda: initial_parameters(SEED))
    requests: int = 0

    def difference(self, other: Run) -> float:
        """The largest difference between two runs, over the losses of all steps and all weights."""
        losses = np.abs(np.subtract(self.losses, other.losses)).max()
        return float(max(losses, np.abs(self.parameters - other.parameters).max()))

    def train(
        self,
        workers: Workers,
        digits: Digits,
        shards: Sequence[Shard],
        epochs: int,
        batch_size: int,
    ) -> Iterator[Epoch]:
        """Trains by stochastic gradient descent with momentum; yields after each epoch."""
        random = np.random.default_rng(SEED)
        velocity = np.zeros_like(self.parameters)
        steps = min(len(shard.labels) for shard in shards) * len(shards) // batch_size
        for number in range(1, epochs + 1):
            orders: list[Ids] = [random.permutation(len(shard.labels)) for shard in shards]
            for step in range(steps):
                rows = [np.array_split(order, steps)[step] for order in orders]
                loss, gradient = workers.step(self.parameters, rows)
                velocity = MOMENTUM * velocity - LEARNING_RATE * gradient
                self.parameters = (self.parameters + velocity).astype(np.float32)
                self.losses.append(loss)
                self.requests += len(rows)
            accuracy = accuracy_of(self.parameters, digits.test)
            self.epochs.append(Epoch(number, float(np.mean(self.losses[-steps:])), accuracy))
            yield self.epochs[-1]


def accuracy_of(parameters: Floats, shard: Shard) -> float:
    """The share of images whose most likely class is their label."""
    guesses = Classifier(parameters).logits(shard.images).argmax(axis=1)
    return float((guesses == shard.labels).mean())
