"""Client processes with traffic: started, listened to, killed, replaced, ended."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from benchmarks.soak.traffic import TIMEOUT_SECONDS, Tally

if TYPE_CHECKING:
    from benchmarks.soak.links import Link

CLIENT_KINDS: Final = ("sync", "async")

_ROOT: Final = Path(__file__).parents[2]


def started(module: str, *arguments: str) -> subprocess.Popen[str]:
    """A Python process of this package's."""
    return subprocess.Popen(  # noqa: S603 -- our own module
        [sys.executable, "-m", f"benchmarks.soak.{module}", *arguments],
        cwd=_ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # gRPC's own word for every connection that is hurt.
        env={**os.environ, "GRPC_VERBOSITY": "NONE"},
    )


class Worker:
    """A client process whose tallies are read as they come."""

    def __init__(self, link: Link, kind: str, seed: int, rounds: int) -> None:
        self.link = link
        self.kind = kind
        self.tally = Tally()
        self.has_begun = threading.Event()
        self._process = started("worker", link.target, str(seed), kind, link.tls or "", str(rounds))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()
        self._finish()

    def end(self) -> None:
        """Lets it finish its calls.

        Raises:
            RuntimeError: it failed.
        """
        assert self._process.stdin is not None  # noqa: S101 -- for the type checker
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        self.wait()

    def wait(self) -> None:
        """Waits for its end, which it comes to by itself after its rounds.

        Raises:
            RuntimeError: it failed.
        """
        status = self._process.wait(3 * TIMEOUT_SECONDS)
        self._finish()
        if status:
            raise RuntimeError(f"a client process ended with status {status}")

    def _finish(self) -> None:
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 -- for the type checker
        for line in self._process.stdout:
            if not line.endswith("\n"):
                return  # killed while it wrote
            told = json.loads(line)
            calls = Counter({(way, outcome): count for way, outcome, count in told["calls"]})
            self.tally.add(Tally(calls, told["messages"]))
            self.has_begun.set()


class Crew:
    """Client processes, each at a link.

    Args:
        places: the link and the kind of client of each.
        seed: of all their traffic.
        rounds: that each makes; 0 for no such end.
    """

    def __init__(self, places: list[tuple[Link, str]], seed: int, rounds: int = 0) -> None:
        self.tally = Tally()
        self.killed = 0
        self._random = random.Random(seed)  # noqa: S311 -- to be repeated, not to be guessed
        self._rounds = rounds
        self._workers = [self._worker(link, kind) for link, kind in places]

    def wait_until_begun(self) -> None:
        """Waits for the first answers of all."""
        for worker in self._workers:
            worker.has_begun.wait(TIMEOUT_SECONDS)

    def kill_one(self) -> None:
        """Kills one that has made calls, whatever it is doing, and puts another in its place."""
        place = self._random.randrange(len(self._workers))
        worker = self._workers[place]
        worker.has_begun.wait(TIMEOUT_SECONDS)
        worker.kill()
        self.killed += 1
        self.tally.add(worker.tally)
        self._workers[place] = self._worker(worker.link, worker.kind)

    def count(self) -> int:
        """Calls so far."""
        tallies = [self.tally, *(worker.tally for worker in self._workers)]
        return sum(tally.calls.total() for tally in tallies)

    def end(self) -> Tally:
        """Ends all; what became of their calls."""
        for worker in self._workers:
            if self._rounds:
                worker.wait()
            else:
                worker.end()
            self.tally.add(worker.tally)
        self._workers = []
        return self.tally

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.kill()
        self._workers = []

    def _worker(self, link: Link, kind: str) -> Worker:
        return Worker(link, kind, self._random.randrange(1 << 30), self._rounds)
