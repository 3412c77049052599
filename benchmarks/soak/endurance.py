"""Mixed traffic for as long as one likes, with faults, and with clients that are killed.

Two runs of it: with servers that are killed and started again, where no call may be lost; and with
servers that live on, whose memory and descriptors at the end are held to those after a warm-up.
"""

from __future__ import annotations

import itertools
import random
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

from benchmarks.processes import own_bytes
from benchmarks.soak.crew import CLIENT_KINDS, Crew
from benchmarks.soak.faults import KINDS
from benchmarks.soak.footprint import settled
from benchmarks.soak.kills import STAGES, kill_at
from benchmarks.soak.links import LINKS, Link
from benchmarks.soak.traffic import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.loop import Loop
    from benchmarks.soak.footprint import Footprint
    from benchmarks.soak.links import LinkKind
    from benchmarks.soak.watched import InUse

AtRest: TypeAlias = "dict[LinkKind, tuple[Footprint, InUse]]"
"""What each server holds, and what it has in use, when nothing of its clients is left."""

EVERY: Final = 200
"""Chunks from one fault to the next: several faults a second."""

_PAUSE_SECONDS: Final = 1.0
"""Between kills."""


class Scene:
    """A server for each kind of link, each behind a proxy, and clients of them.

    Args:
        loop: what proxies run on.
        seed: of faults, traffic and kills.
        every: chunks from one fault to the next.
        kinds: of the links.
    """

    def __init__(
        self, loop: Loop, seed: int, every: int = EVERY, kinds: Sequence[LinkKind] = LINKS
    ) -> None:
        self.tally = Tally()
        self.kills: Counter[str] = Counter()
        self.own_bytes: dict[LinkKind, list[int]] = {kind: [] for kind in kinds}
        self._seeds = itertools.count(seed)
        self._random = random.Random(seed)  # noqa: S311 -- to be repeated, not to be guessed
        self._stages = itertools.cycle(STAGES)
        self.links: list[Link] = []
        with ExitStack() as stack:
            for kind in kinds:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                link = Link(kind, loop, folder, next(self._seeds), every)
                self.links.append(stack.enter_context(link))
            self._stack = stack.pop_all()

    def run_rounds(self, rounds: int) -> None:
        """One client of each link makes rounds of all ways; others are killed at all stages."""
        places = list(zip(self.links, itertools.cycle(CLIENT_KINDS), strict=False))
        with Crew(places, next(self._seeds), rounds) as crew:
            for stage, link in zip(STAGES, itertools.cycle(self.links), strict=False):
                self._kill(stage, link)
            self.tally.add(crew.end())

    def run_for(
        self,
        seconds: float,
        watch: Callable[[int], object],
        *,
        clients: int = 1,
        has_restarts: bool = False,
    ) -> None:
        """Traffic for so long, then none; with kills all along.

        Args:
            seconds: after which it ends.
            watch: is told how many calls have been made.
            clients: of each kind on each link.
            has_restarts: whether servers are killed, too, and started again.
        """
        end = time.monotonic() + seconds
        places = list(itertools.product(self.links, CLIENT_KINDS)) * clients
        with Crew(places, next(self._seeds)) as crew:
            crew.wait_until_begun()
            while time.monotonic() < end:
                self._kill(next(self._stages), self._random.choice(self.links))
                crew.kill_one()
                if has_restarts:
                    self._random.choice(self.links).restart()
                    self.kills["a server"] += 1
                for link in self.links:
                    self.own_bytes[link.kind].append(own_bytes(link.server.pid))
                watch(crew.count())
                time.sleep(_PAUSE_SECONDS)
            self.tally.add(crew.end())
            self.kills["at work"] += crew.killed

    def at_rest(self, before: AtRest | None = None) -> AtRest:
        """What each server holds, by link, once nothing of its clients is left, or never will be.

        Args:
            before: when nothing was left; None for now: then regions alone tell.
        """
        found: AtRest = {}
        for link in self.links:
            then = before and before[link.kind][0]
            with link.client() as client:
                footprint = settled(
                    link.server.pid,
                    client,
                    lambda now, then=then: not (now.leaks(then) if then else now.regions),
                )
            found[link.kind] = footprint, link.server.in_use()
        return found

    def as_json(self) -> dict[str, Any]:
        """What became of everything."""
        injected: Counter[str] = Counter()
        for link in self.links:
            injected.update(link.injected)
        return {
            "calls": self.tally.as_json(),
            "requests": self.tally.calls.total(),
            **{outcome: self.tally.of(outcome) for outcome in ("right", "told", "lost", "wrong")},
            "messages": self.tally.messages[:20],
            "faults": {kind: injected[kind] for kind in KINDS},
            "kills": dict(self.kills),
            "own_bytes": self.own_bytes,
            "incidents": sum(link.incidents for link in self.links),
        }

    def close(self) -> None:
        """Ends all servers."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _kill(self, stage: Any, link: Link) -> None:
        kill_at(stage, link)
        self.kills[stage] += 1


def faults(loop: Loop, seconds: float, watch: Callable[[int], object], seed: int) -> dict[str, Any]:
    """Traffic with faults of every kind, kills of clients, and kills of servers."""
    with Scene(loop, seed) as scene:
        scene.run_for(seconds, watch, has_restarts=True)
        return {"seconds": seconds, **scene.as_json()}


def soak(loop: Loop, seconds: float, watch: Callable[[int], object], seed: int) -> dict[str, Any]:
    """The same with servers that live on: half of it to warm up, half of it to see what stays.

    Warmed up by three times the clients, so that what it caches is not more by chance at the end.
    """
    with Scene(loop, seed) as scene:
        scene.run_for(seconds / 2, watch, clients=3)
        before = scene.at_rest()
        warmed_up = scene.tally.calls.total()
        scene.run_for(seconds / 2, lambda calls: watch(warmed_up + calls))
        after = scene.at_rest(before)
        return {"seconds": seconds, **scene.as_json(), "servers": compared(before, after)}


def compared(before: AtRest, after: AtRest) -> dict[str, Any]:
    """What servers held after the warm-up and at the end, by link."""
    figures: dict[str, Any] = {}
    for link, (held, in_use) in before.items():
        holds, uses = after[link]
        figures[link] = {
            "warmed_up": {**asdict(held), **asdict(in_use)},
            "end": {**asdict(holds), **asdict(uses)},
            "drift": uses.drift(in_use),
            "leaks": holds.leaks(held) | uses.leaks(in_use),
        }
    return figures
