"""Asks a server for a loss and its gradient; start one with `losswire serve` first."""

import numpy as np

import losswire

random = np.random.default_rng(0)
logits = random.normal(size=(32, 10)).astype(np.float32)
labels = random.integers(0, 10, 32)

with losswire.Client() as client:
    info = client.server_info()
    print(f"{client.target}: losswire {info.version}, {info.backend} on {info.device}")
    result = client.softmax_cross_entropy(logits, labels, reduction="mean")
    print(f"loss {result.loss:.4f}, gradient norm {np.linalg.norm(result.grad_logits):.4f}")
