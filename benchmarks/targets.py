"""Where the ratios should be, all in one place; rows without one only inform."""

from __future__ import annotations

from typing import Final

from benchmarks.rows import Target

ENGINE_TO_FRAMEWORK: Final = Target("<=", 1.0)
"""The engine, beside the fastest of PyTorch, JAX and TensorFlow."""

SHARED_TO_TORCH: Final = Target("<=", 1.0)
"""A call through shared memory with ordinary arrays, beside PyTorch in the caller's process."""

ONE_SHOT_TO_ECHO: Final = Target("<=", 1.5)
"""One message each way, beside a bare echo of it and the engine."""

SMALL_TO_MOSEC: Final = Target(">=", 1.0)
"""Small calls per second, beside mosec's."""
