"""Where the ratios should be, all in one place; rows without one only inform.

Ratios are of times, unless the row is a rate: to be k times as fast as something is to
take at most 1/k of its time.
"""

from __future__ import annotations

from typing import Final

from benchmarks.rows import Target

ENGINE_TO_FRAMEWORK: Final = Target("<=", 1 / 1.4)
"""The engine, beside the fastest of PyTorch, JAX and TensorFlow, from `MANY_CLASSES` on."""

ENGINE_TO_FRAMEWORK_FEW: Final = Target("<=", 1.0)
"""The same for few classes."""

ENGINE_TO_COPY: Final = Target("<=", 1 / 0.45)
"""The engine, beside copying the logits, from `MANY_CLASSES` on."""

MANY_CLASSES: Final = 1_000

SHARED_TO_TORCH: Final = Target("<=", 1.0)
"""A call through shared memory with ordinary arrays, beside PyTorch in the caller's process."""

OWN_ARRAYS_TO_ENGINE: Final = Target("<=", 1 / 0.85)
"""The same with arrays of `client.empty`, beside the engine."""

STREAMED_TO_ECHO: Final = Target("<=", 1 / 0.8)
"""A streamed call, beside a streamed echo of it and the engine, one after the other."""

ONE_SHOT_TO_ECHO: Final = Target("<=", 1.5)
"""One message each way, beside a bare echo of it and the engine."""

SMALL_TO_MOSEC: Final = Target(">=", 6.0)
"""Small calls per second, beside mosec's."""

SERVER_TIME_TO_ECHO: Final = Target("<=", 1.6)
"""Processor time of the server per call, beside a bare echo server's."""

HUGE_MEMORY: Final = 300e6
"""Bytes of the server above idle while a tensor is streamed, whatever its size."""

WITHIN: Final = Target("<=", 1.0)
"""Beside a figure that is a limit itself."""
