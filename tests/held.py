"""An engine whose batches start and end when a test says so."""

import asyncio
import threading

import numpy as np

from losswire_server.requests import LossResult


class HeldEngine:
    """An engine that computes nothing until it is let go, and notes what it was handed."""

    name = device = "held"

    def __init__(self, quick_bytes=0):
        self.quick_bytes = quick_bytes
        self.batches, self.threads = [], []
        self.failing = set()
        self._entered = threading.Semaphore(0)
        self._released = threading.Semaphore(0)

    def compute(self, requests):
        self.batches.append([request.rows for request in requests])
        self.threads.append(threading.current_thread())
        self._entered.release()
        assert self._released.acquire(timeout=60)
        if any(request.rows in self.failing for request in requests):
            raise RuntimeError("a fault of the engine")
        return [
            LossResult(None, np.full(request.example_shape, request.rows), None, None)
            for request in requests
        ]

    def close(self):
        pass

    async def entered(self):
        """Waits until one more batch is being computed."""
        assert await asyncio.to_thread(self._entered.acquire, timeout=20), "no batch is computed"

    def release(self, batches=1):
        """Lets batches end."""
        for _ in range(batches):
            self._released.release()
