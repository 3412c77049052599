"""Accumulates gradients over micro-batches while their losses are computed elsewhere, PyTorch.

    LOSSWIRE_TARGET=localhost:50051 python examples/prefetch.py

One after the other, the worker waits for each loss. With `client.submit` the loss of a micro-batch
is on its way while the next one's forward pass runs. Both take the same steps: the weights are
equal to the last bit. What is gained depends on how long a call and a forward pass take, and on
whether worker and server have cores of their own.
"""

import argparse
import copy
import statistics
import time

import torch

import losswire

PIXELS, WIDTH, CLASSES = 256, 256, 10_000


def ask(client, logits, labels):
    """What a call needs of a micro-batch; its logits may not change before it is answered."""
    options = {"reduction": "sum"}
    return client.submit("softmax_cross_entropy", logits.detach().numpy(), labels, **options)


def backward(logits, pending):
    """Goes on backward from the gradient that came with the loss."""
    result = pending.result()
    logits.backward(torch.from_numpy(result.grad_logits))
    return float(result.loss)


def one_after_the_other(client, model, batches):
    """The loss of all micro-batches, each waited for."""
    total = 0.0
    for pixels, labels in batches:
        logits = model(pixels)
        total += backward(logits, ask(client, logits, labels))
    return total


def prefetched(client, model, batches):
    """The same; a loss is computed while the next forward pass runs."""
    total, ahead = 0.0, None
    for pixels, labels in batches:
        logits = model(pixels)
        if ahead is not None:
            total += backward(*ahead)
        ahead = logits, ask(client, logits, labels)
    return total + backward(*ahead)


class Trained:
    """A model that takes steps one of the two ways, and how long each took."""

    def __init__(self, client, model, run):
        self.client, self.model, self.run = client, model, run
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        self.seconds = []

    def step(self, batches):
        """One step; its loss is the mean over all micro-batches."""
        begin = time.perf_counter()
        self.optimizer.zero_grad()
        self.run(self.client, self.model, batches)
        rows = sum(len(labels) for _, labels in batches)
        for weight in self.model.parameters():
            weight.grad /= rows
        self.optimizer.step()
        self.seconds.append(time.perf_counter() - begin)

    def milliseconds(self):
        """Median of the steps but for the first, which opens connections."""
        return statistics.median(self.seconds[1:]) * 1e3


def main():
    """Trains both ways in turns, and prints what is gained."""
    parser = argparse.ArgumentParser(description="What client.submit gains.")
    parser.add_argument("--steps", type=int, default=20, help="timed steps, each way")
    parser.add_argument("--micro-batches", type=int, default=8, help="in each step")
    parser.add_argument("--rows", type=int, default=256, help="of a micro-batch")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    hidden = torch.nn.Linear(PIXELS, WIDTH)
    model = torch.nn.Sequential(hidden, torch.nn.ReLU(), torch.nn.Linear(WIDTH, CLASSES))
    shape = (arguments.micro_batches, arguments.rows)
    with losswire.Client() as client:
        waited = Trained(client, copy.deepcopy(model), one_after_the_other)
        ahead = Trained(client, model, prefetched)
        for _ in range(arguments.steps + 1):
            pixels, labels = torch.randn(*shape, PIXELS), torch.randint(CLASSES, shape)
            batches = list(zip(pixels, labels.numpy(), strict=True))
            waited.step(batches)
            ahead.step(batches)
    pairs = zip(waited.model.parameters(), ahead.model.parameters(), strict=True)
    is_equal = all(torch.equal(one, other) for one, other in pairs)
    before, after = waited.milliseconds(), ahead.milliseconds()
    print(f"one after the other {before:.1f} ms a step, prefetched {after:.1f} ms")
    print(f"gain {1 - after / before:.1%}, weights {'equal' if is_equal else 'different'}")


if __name__ == "__main__":
    main()
