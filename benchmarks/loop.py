"""One event loop for all asynchronous contenders, running in a thread of its own.

A loop that is started anew for each turn costs grpc.aio about 10 ms a start, which is more than
many turns take.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from benchmarks.turns import Turn


class Loop:
    """Runs coroutines for other threads until it is closed."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """The result of a coroutine."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def seconds(self, call: Callable[[], Awaitable[object]]) -> Turn:
        """A turn that is one awaited call, in seconds, timed inside the loop."""

        async def timed() -> float:
            start = time.perf_counter()
            result = await call()
            end = time.perf_counter()
            del result
            return end - start

        return lambda: self.run(timed())  # type: ignore[no-any-return]

    def close(self) -> None:
        """Ends the loop and its thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
