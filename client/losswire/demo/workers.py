"""Data-parallel workers: processes that each hold a shard and compute gradients on demand.

In, for each step: the parameters and which rows of the shard to use. Out: the shard's part of the
loss and of the gradient. The loss and its gradient with respect to the logits come from a losswire
server, or, for comparison, from a few lines of NumPy in the worker.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeAlias

import numpy as np
import numpy.typing as npt

import losswire
from losswire.demo.model import Classifier, Floats

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from types import TracebackType

Ids: TypeAlias = npt.NDArray[np.int64]
Loss: TypeAlias = Callable[[Floats, Ids, int], tuple[float, Floats]]
"""Logits, class ids and the size of the whole batch to the shard's part of the mean loss, and its
gradient."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A worker's share of the training set: images `[rows, 64]` and labels `[rows]`."""

    images: Floats
    labels: Ids


@dataclass(frozen=True, slots=True)
class Step:
    """What a worker is told: parameters, rows of its shard, and rows of all workers together."""

    parameters: Floats
    rows: Ids
    batch_size: int


class Workers:
    """One process for each shard.

    Args:
        shards: what each worker holds.
        target: the server that computes the loss; None for the worker itself.
    """

    def __init__(self, shards: Sequence[Shard], target: str | None) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for shard in shards:
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(shard, target, theirs), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def step(self, parameters: Floats, rows: Sequence[Ids]) -> tuple[float, Floats]:
        """The mean loss over the rows of all workers, and its gradient `[parameters]`."""
        batch_size = sum(len(part) for part in rows)
        for pipe, part in zip(self._pipes, rows, strict=True):
            pipe.send(Step(parameters, part, batch_size))
        answers = [_received(pipe) for pipe in self._pipes]
        gradient = np.sum([part for _, part in answers], axis=0)
        return sum(loss for loss, _ in answers), gradient

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.close()
            process.join(10)
            if process.is_alive():
                process.kill()


def _received(pipe: Connection) -> tuple[float, Floats]:
    try:
        answer = pipe.recv()
    except EOFError:
        raise ChildProcessError("a worker process ended before its work was done") from None
    if isinstance(answer, Exception):
        raise answer
    loss, gradient = answer
    return loss, gradient


def _work(shard: Shard, target: str | None, pipe: Connection) -> None:
    """The worker process: a step in, a loss and a gradient out, until the pipe closes."""
    with ExitStack() as stack:
        loss_of: Loss = local_loss
        if target is not None:
            loss_of = remote_loss(stack.enter_context(losswire.Client(target)))
        model = Classifier(np.empty(0, np.float32))
        while True:
            try:
                step: Step = pipe.recv()
            except EOFError:
                return
            try:
                model.parameters = step.parameters
                logits = model.logits(shard.images[step.rows])
                loss, grad_logits = loss_of(logits, shard.labels[step.rows], step.batch_size)
                pipe.send((loss, model.gradient(grad_logits)))
            except losswire.LosswireError as error:
                pipe.send(RuntimeError(f"{type(error).__name__}: {error}"))
                return


def remote_loss(client: losswire.Client) -> Loss:
    """The loss as a losswire server computes it."""

    def loss_of(logits: Floats, labels: Ids, batch_size: int) -> tuple[float, Floats]:
        result = client.softmax_cross_entropy(
            logits, labels, reduction="mean", normalizer=batch_size
        )
        if result.grad_logits is None:
            raise AssertionError("gradients were asked for")
        return float(result.loss), result.grad_logits

    return loss_of


def local_loss(logits: Floats, labels: Ids, batch_size: int) -> tuple[float, Floats]:
    """The loss as a worker would compute it by itself."""
    rows = np.arange(len(labels))
    shifted = logits - logits.max(axis=1, keepdims=True)
    probabilities = np.exp(shifted)
    total = probabilities.sum(axis=1, keepdims=True)
    probabilities /= total
    loss = (np.log(total[:, 0]) - shifted[rows, labels]).sum() / batch_size
    probabilities[rows, labels] -= 1
    return float(loss), probabilities / np.float32(batch_size)
