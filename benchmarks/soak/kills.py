"""Clients that are killed at a known stage of a call, by a proxy that sees how far it is."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, get_args

from benchmarks.soak.crew import started
from benchmarks.soak.victim import LOGITS_BYTES

if TYPE_CHECKING:
    import subprocess

    from benchmarks.soak.links import Link
    from benchmarks.soak.proxy import Direction

Stage: TypeAlias = Literal["connecting", "sending", "waiting", "receiving", "holding a region"]

STAGES: Final[tuple[Stage, ...]] = get_args(Stage)

_LONGEST_SECONDS: Final = 60.0


def kill_at(stage: Stage, link: Link) -> None:
    """Starts a client and kills it at a stage.

    Raises:
        RuntimeError: it never came there.
    """
    if stage == "holding a region":
        _kill(started("victim", link.target, "shared", link.tls or ""), after_a_call=True)
        return
    is_there = threading.Event()
    process: list[subprocess.Popen[str]] = []

    def watch(direction: Direction, gone: int) -> None:
        if not is_there.is_set() and _is_at(stage, direction, gone):
            process[0].kill()  # before these bytes go on
            is_there.set()

    proxy = link.new_proxy(watch=watch)
    try:
        process.append(started("victim", proxy.target, "inline", link.tls or ""))
        if not is_there.wait(_LONGEST_SECONDS):
            raise RuntimeError(f"a client was never found {stage}")
        _kill(process[0])
    finally:
        proxy.close()


def _is_at(stage: Stage, direction: Direction, gone: int) -> bool:
    """Whether these bytes of a connection mean that its call is at a stage."""
    match stage:
        case "connecting":
            return direction == "up"
        case "sending":
            return direction == "up" and gone >= LOGITS_BYTES // 2
        case "waiting":
            return direction == "up" and gone >= LOGITS_BYTES
        case "receiving":
            return direction == "down" and gone >= LOGITS_BYTES // 2
    raise ValueError(stage)


def _kill(process: subprocess.Popen[str], *, after_a_call: bool = False) -> None:
    assert process.stdout is not None  # noqa: S101 -- for the type checker
    if after_a_call and not process.stdout.readline():
        process.kill()
        process.communicate()
        raise RuntimeError("a client that was to hold a region ended by itself")
    process.kill()
    process.communicate()
