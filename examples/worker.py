"""A training worker that has every loss computed elsewhere: softmax regression, NumPy alone.

    LOSSWIRE_TARGET=localhost:50051 python examples/worker.py --steps 200

Without --steps it goes on until it is stopped, as a worker beside a dashboard should.
"""

import argparse
import itertools

import numpy as np

import losswire


def main() -> None:
    """Trains, and says how it goes."""
    parser = argparse.ArgumentParser(description="Softmax regression, its losses over gRPC.")
    parser.add_argument("--steps", type=int, help="steps to take; for ever if not given")
    steps = parser.parse_args().steps
    random = np.random.default_rng(0)
    truth = random.normal(size=(64, 100)).astype(np.float32)
    weights = np.zeros_like(truth)
    with losswire.Client() as client:
        for step in itertools.count() if steps is None else range(steps):
            inputs = random.normal(size=(256, 64)).astype(np.float32)
            labels = (inputs @ truth).argmax(axis=1)
            result = client.softmax_cross_entropy(inputs @ weights, labels, reduction="mean")
            weights -= 2.0 * (inputs.T @ result.grad_logits)
            if step % 50 == 0:
                print(f"step {step}: loss {result.loss:.4f}", flush=True)


if __name__ == "__main__":
    main()
