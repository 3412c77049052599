"""Plays inputs: the same for the short form, the long one, and whoever looks at one that failed."""

import gc
import importlib
import tracemalloc
import warnings
import zlib
from pathlib import Path

from fuzz.clockwork import Clockwork
from fuzz.house import Engine
from fuzz.scripts import Script

TARGETS = ("decoder", "stream", "many", "regions", "replies")
CORPUS = Path(__file__).parent / "corpus"
KEPT = Path(__file__).parent / "kept"
"""Inputs that stay whatever they reach: those that once failed, by target and what it was, and
those that only the measure of memory can tell from others."""

MEMORY_BYTES = 4 << 20
"""Python's and NumPy's own memory that an input may take at its peak, more than 64 times its size:
four times a house's room and the files of a script, and what the checks of an answer need."""

MEMORY_FACTOR = 64


class Player:
    """Plays one target's inputs, one after the other.

    Args:
        name: of the target.
        measured: one of how many inputs is played under the eyes of tracemalloc, which is slow.
    """

    def __init__(self, name, measured=1):
        self.target = importlib.import_module(f"fuzz.targets.{name}")
        self._measured = measured
        self._engine = Engine()
        self._loop = Clockwork()
        gc.freeze()  # what is there by now is not looked through when an input's rest is collected

    def play(self, data):
        """Plays an input.

        Raises:
            AssertionError: the service has a fault.
        """
        is_measured = zlib.crc32(data) % self._measured == 0
        if is_measured:
            tracemalloc.start()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                self._loop.play(self.target.play(Script.of(data), self._engine))
            peak = tracemalloc.get_traced_memory()[1] if is_measured else 0
        finally:
            tracemalloc.stop()
        assert not self._loop.faults, self._loop.faults
        most = MEMORY_BYTES + MEMORY_FACTOR * len(data)
        assert peak <= most, f"{peak} bytes of memory for {len(data)} bytes of input"

    def close(self):
        """Ends the event loop."""
        gc.unfreeze()
        self._loop.close()


def corpus(name):
    """The inputs that are kept for a target, in an order that does not change."""
    paths = sorted((CORPUS / name).glob("*")) + sorted((KEPT / name).glob("*"))
    return [path.read_bytes() for path in paths]
