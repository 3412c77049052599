"""mosec serving the same loss with a NumPy worker; run as a script with mosec's own arguments.

A request is rows and classes as two int32, then float32 logits, then int32 class ids; a reply is
the float32 losses and the gradient. Raw bytes both ways, which is the least that it can cost.
mosec puts requests that are pending together into a batch, which the worker computes at once.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from mosec import Server, Worker

Request = tuple[np.ndarray, np.ndarray]


class LossWorker(Worker):
    """Softmax cross-entropy and its gradient."""

    def deserialize(self, data: bytes) -> Request:
        """Reads a request without copying it."""
        rows, classes = np.frombuffer(data, np.int32, 2)
        logits = np.frombuffer(data, np.float32, rows * classes, 8).reshape(rows, classes)
        return logits, np.frombuffer(data, np.int32, rows, 8 + logits.nbytes)

    def serialize(self, data: bytes) -> bytes:
        """A reply is bytes already."""
        return data

    def forward(self, data: Any) -> Any:
        """Computes one request, or a batch of them with one call of each NumPy function."""
        requests: list[Request] = data if isinstance(data, list) else [data]
        logits = np.concatenate([logits for logits, _ in requests])
        ids = np.concatenate([ids for _, ids in requests])
        losses, gradient = loss_and_gradient(logits, ids)
        replies, start = [], 0
        for each, _ in requests:
            end = start + len(each)
            replies.append(losses[start:end].tobytes() + gradient[start:end].tobytes())
            start = end
        return replies if isinstance(data, list) else replies[0]


def loss_and_gradient(logits: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As anyone would write it in NumPy."""
    rows = np.arange(len(ids))
    gradient = logits - logits.max(axis=1, keepdims=True)
    picked = gradient[rows, ids]
    np.exp(gradient, out=gradient)
    total = gradient.sum(axis=1, keepdims=True)
    gradient /= total
    gradient[rows, ids] -= 1
    return np.log(total[:, 0]) - picked, gradient


if __name__ == "__main__":
    server = Server()
    batch = int(os.environ.get("BENCH_MOSEC_BATCH", "64"))
    server.append_worker(
        LossWorker,
        num=int(os.environ.get("BENCH_MOSEC_WORKERS", "1")),
        max_batch_size=batch,
        max_wait_time=1 if batch > 1 else 0,
    )
    server.run()
