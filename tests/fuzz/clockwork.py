"""An event loop without threads and without time: what happens follows from the input alone.

Time goes by only where nothing else is left to do; a loop that waits for what can never come says
so at once, and one that never comes to rest after a number of turns.
"""

import asyncio
import selectors
from concurrent.futures import Future, ThreadPoolExecutor

MOST_TURNS = 20_000
"""Of one input; those of the corpus take some hundreds."""

COMPUTING_SECONDS = 0.002
"""That a batch takes on a thread, in the loop's own time."""


class Hangs(AssertionError):  # noqa: N818 -- it says what the service does
    """What was waited for does not come."""


class _Selector(selectors.EpollSelector):
    """Waits for nothing: moves the clock instead."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.turns = 0

    def select(self, timeout=None):
        self.turns += 1
        if self.turns > MOST_TURNS:
            raise Hangs(f"no end after {MOST_TURNS} turns")
        # Files and sockets are looked at only where all else has been done.
        events = super().select(0) if timeout is None or timeout > 0 else []
        if not events and timeout is None:
            raise Hangs("everything waits, and nothing will come")
        if not events and timeout > 0:
            self.now += timeout
        return events


class Clockwork(asyncio.SelectorEventLoop):
    """The event loop; unexpected errors of its tasks are kept.

    Attributes:
        faults: what nobody else would notice.
    """

    def __init__(self):
        self._clockwork = _Selector()
        super().__init__(self._clockwork)
        self.faults = []
        self.set_default_executor(Here())
        self.set_exception_handler(lambda _loop, context: self.faults.append(context))

    def time(self):
        return self._clockwork.now

    def play(self, coroutine):
        """Runs a coroutine to its end, within the turns that an input has."""
        self._clockwork.turns = 0
        self.faults.clear()
        return self.run_until_complete(coroutine)


class Here(ThreadPoolExecutor):
    """Does at once what it is handed."""

    def submit(self, function, /, *arguments, **keywords):
        done = Future()
        _do(done, function, arguments, keywords)
        return done


class Later(ThreadPoolExecutor):
    """Does it a little later, as a thread would; cancelled or not."""

    def submit(self, function, /, *arguments, **keywords):
        done = Future()
        done.set_running_or_notify_cancel()
        loop = asyncio.get_running_loop()
        loop.call_later(COMPUTING_SECONDS, _do, done, function, arguments, keywords)
        return done


def _do(done, function, arguments, keywords):
    try:
        done.set_result(function(*arguments, **keywords))
    except Exception as error:  # noqa: BLE001 -- as a thread would hand it on
        done.set_exception(error)
