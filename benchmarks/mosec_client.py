"""mosec in a child process, and requests to it over kept-alive HTTP connections."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from benchmarks.turns import Absent

if TYPE_CHECKING:
    from losswire.bench.problem import Problem

_START_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply, in the form in which answers are checked."""

    per_example: np.ndarray
    grad_logits: np.ndarray


class MosecServer:
    """The server of `mosec_server`, listening on loopback.

    Args:
        workers: processes that compute.
        batch: most requests that one of them gets together; 1 for no batching.

    Raises:
        Absent: mosec or aiohttp is not installed, or mosec does not start.
    """

    def __init__(self, workers: int, batch: int) -> None:
        for name in ("mosec", "aiohttp"):
            if importlib.util.find_spec(name) is None:
                raise Absent(f"{name} is not installed")
        self._folder = tempfile.TemporaryDirectory(prefix="mosec-")
        self.port = _free_port()
        settings = {"BENCH_MOSEC_WORKERS": str(workers), "BENCH_MOSEC_BATCH": str(batch)}
        script = Path(__file__).with_name("mosec_server.py")
        self._process = subprocess.Popen(  # noqa: S603 -- our own module
            [
                sys.executable, str(script), "--address", "127.0.0.1", "--port", str(self.port),
                "--path", f"{self._folder.name}/ipc", "--log-level", "error",
            ],
            env=os.environ | settings,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # its children end with its group
        )  # fmt: skip

    @property
    def url(self) -> str:
        """Where requests go."""
        return f"http://127.0.0.1:{self.port}/inference"

    @property
    def has_ended(self) -> bool:
        """Whether it is gone already."""
        return self._process.poll() is not None

    def close(self) -> None:
        """Ends the server and its workers."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def ready(server: MosecServer, session: Any, problem: Problem) -> None:
    """Waits for the first answer and holds it to the right one.

    Raises:
        Absent: there is none in time.
    """
    import aiohttp  # noqa: PLC0415 -- optional

    end = time.monotonic() + _START_SECONDS
    while True:
        try:
            content = await ask(session, server.url, encode(problem))
        except aiohttp.ClientError as error:
            if server.has_ended or time.monotonic() > end:
                raise Absent(f"mosec does not start: {error}") from error
            await asyncio.sleep(_POLL_SECONDS)
        else:
            problem.check(decode(content, problem))
            return


async def ask(session: Any, url: str, request: bytes) -> bytes:
    """One request and its reply."""
    async with session.post(url, data=request) as response:
        response.raise_for_status()
        content: bytes = await response.read()
        return content


def encode(problem: Problem) -> bytes:
    """The request that `mosec_server` reads."""
    logits, ids = problem.arguments
    sizes = np.array(logits.shape, np.int32)
    return sizes.tobytes() + logits.tobytes() + ids.astype(np.int32).tobytes()


def decode(content: bytes, problem: Problem) -> Answer:
    """The reply that it writes."""
    rows = len(problem.logits)
    numbers = np.frombuffer(content, np.float32)
    return Answer(numbers[:rows], numbers[rows:].reshape(problem.logits.shape))


def _free_port() -> int:
    """mosec takes no port 0; nobody else is likely to take this one in the meantime."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
