"""A batch that leaves: computed, counted, and each of its requests answered.

In: a batch, and the engine that computes it. Out: at each request's `answer` its result, or the
fault that is its own: a batch that fails is computed again one by one, for a fault of one must not
become its neighbours'. What no request is to blame for ends all computing.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import structlog

from losswire_server.errors import DeviceFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from losswire_server.engine.protocol import Engine
    from losswire_server.groups import Waiting
    from losswire_server.metrics import Metrics
    from losswire_server.pace import Pace
    from losswire_server.requests import LossResult


class Computing:
    """Has `engine` compute batches. For the event loop; only the engine runs on threads.

    Args:
        engine: what computes.
        threads: batches that can be computed there at the same time.
        on_end: told why, and of the batch at work, where nothing more can be computed.
        pace: told how long each batch took that a thread computed.
        metrics: told of each batch.
    """

    def __init__(
        self,
        engine: Engine,
        threads: int,
        on_end: Callable[[BaseException, list[Waiting]], object],
        pace: Pace,
        metrics: Metrics | None = None,
    ) -> None:
        self._engine = engine
        self._on_end = on_end
        self._pace = pace
        self._metrics = metrics
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="losswire-batch")
        self._log = structlog.get_logger()

    def close(self) -> None:
        """Ends the threads; nothing may be at work."""
        self._threads.shutdown()

    async def on_a_thread(self, batch: list[Waiting]) -> None:
        """Computes and answers a batch while the event loop goes on."""
        loop = asyncio.get_running_loop()
        left = loop.time()
        try:
            results, seconds = await loop.run_in_executor(self._threads, self._compute, batch)
            forms = [waiting.request.form for waiting in batch]
            self._pace.note(forms[0].batch_key, sum(form.nbytes for form in forms), seconds)
            self._count(batch, left, seconds)
            _deliver(batch, results)
        except asyncio.CancelledError:
            raise
        except _MismatchError as error:
            self._on_end(error, batch)
        except Exception as error:  # noqa: BLE001 -- the engine's boundary: faults become answers
            for waiting in self._failed(batch, error):
                if waiting.is_wanted(loop.time()):
                    await self.on_a_thread([waiting])
        except BaseException as error:  # noqa: BLE001 -- it would end a thread, or the event loop
            self._on_end(error, batch)

    def here(self, batch: list[Waiting]) -> None:
        """The same on the event loop, which waits."""
        if not batch:
            return
        left = asyncio.get_running_loop().time()
        try:
            results, seconds = self._compute(batch)
            self._count(batch, left, seconds)
            _deliver(batch, results)
        except _MismatchError as error:
            self._on_end(error, batch)
        except Exception as error:  # noqa: BLE001 -- the same
            for waiting in self._failed(batch, error):
                if waiting.is_wanted(asyncio.get_running_loop().time()):
                    self.here([waiting])
        except BaseException as error:  # noqa: BLE001 -- the same
            self._on_end(error, batch)

    def _compute(self, batch: list[Waiting]) -> tuple[list[LossResult], float]:
        """The results of a batch, and the seconds that the engine took."""
        start = time.perf_counter()
        results = self._engine.compute([waiting.request for waiting in batch])
        return results, time.perf_counter() - start

    def _count(self, batch: list[Waiting], left: float, seconds: float) -> None:
        if self._metrics is None:
            return
        forms = [waiting.request.form for waiting in batch]
        rows, nbytes = sum(form.rows for form in forms), sum(form.nbytes for form in forms)
        waited = left - batch[0].arrival
        self._metrics.computed(len(batch), rows, nbytes, waited, seconds)

    def _failed(self, batch: list[Waiting], error: Exception) -> list[Waiting]:
        """Those to be computed alone."""
        if len(batch) > 1:
            self._log.warning("batch_failed", requests=len(batch), error=type(error).__name__)
            return batch
        if not batch[0].answer.done():
            batch[0].answer.set_exception(error)
        return []


class _MismatchError(Exception):
    """An engine that answers not as many requests as it was asked: nobody knows which are which."""


def crashed(error: BaseException) -> DeviceFailed:
    """What those are told who wait, or come, when nothing more can be computed.

    Not in its own words, which may hold what somebody sent: these are for the log.
    """
    return DeviceFailed(f"computing has failed, the server ends: {type(error).__name__}")


def _deliver(batch: list[Waiting], results: list[LossResult]) -> None:
    if len(results) != len(batch):
        raise _MismatchError(f"{len(results)} results of {len(batch)} requests")
    for waiting, result in zip(batch, results, strict=True):
        if not waiting.answer.done():
            waiting.answer.set_result(result)
