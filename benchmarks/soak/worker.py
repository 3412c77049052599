"""A client process with mixed traffic, until its standard input is closed.

In: target, seed, kind of client and authority's file (or "") as arguments, and how many rounds (0
for no end). Out: a line of JSON after each round of calls, with what became of them.
"""

from __future__ import annotations

import asyncio
import json
import select
import sys
from typing import TYPE_CHECKING

from benchmarks.soak.traffic import Traffic

if TYPE_CHECKING:
    from benchmarks.soak.traffic import Tally


def main(target: str, seed: str, kind: str, tls: str, rounds: str) -> None:
    """Runs it."""
    traffic = Traffic(target, int(seed), tls or None)
    if kind == "async":
        asyncio.run(traffic.run_async(_report, int(rounds) or None))
    else:
        traffic.run(_report, int(rounds) or None)


def _report(tally: Tally) -> bool:
    """Writes a tally; whether to go on."""
    calls = [[*key, count] for key, count in tally.calls.items()]
    print(json.dumps({"calls": calls, "messages": tally.messages}), flush=True)
    return not select.select([sys.stdin], [], [], 0)[0]


if __name__ == "__main__":
    main(*sys.argv[1:])
