"""A client process that is to be killed.

In: target, path and authority's file (or "") as arguments. Makes one large call after another; says
so after each.
"""

from __future__ import annotations

import sys
from typing import Final

import numpy as np

import losswire

SHAPE: Final = (2000, 500)
LOGITS_BYTES: Final = 2000 * 500 * 4


def main(target: str, transport: str, tls: str) -> None:
    """Runs it."""
    client = losswire.Client(target, transport=transport, tls=tls or None)  # type: ignore[arg-type]
    logits = client.empty(SHAPE)
    logits[...] = 1
    kept = []
    while True:
        kept.append(client.softmax_cross_entropy(logits, np.zeros(len(logits), np.int64)))
        print("called", flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    main(*sys.argv[1:])
