"""A real server in a child process, for tests, notebooks and demos.

In: server settings as keywords. Out: a target to connect to. The child serves for as long as its
standard input stays open, so it ends with this process however that ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Any, ClassVar, Final, Self

from losswire_server.config import PREFIX
from losswire_server.errors import StartupError

if TYPE_CHECKING:
    from types import TracebackType

_STOP_SECONDS: Final = 10.0


class LocalServer:
    """Runs `losswire serve` in a child process, on a free port unless told otherwise.

    Settings come from here alone, whatever LOSSWIRE_ variables there are: the ones of a server that
    is configured beside it, with its certificates and tokens, are not this one's.

    Example:
        >>> with LocalServer(engine="numpy") as server:      # doctest: +SKIP
        ...     client = losswire.Client(server.target)

    Args:
        log: where the server's log lines go, a file; None for nowhere.
        settings: settings of the server, such as `engine="numpy"` or `unix_socket=path`.

    Raises:
        StartupError: the server could not start; the message is its own.
    """

    _child: ClassVar[tuple[str, ...]] = ("-m", "losswire_server.child")
    """What Python runs."""

    def __init__(self, *, log: IO[Any] | None = None, **settings: Any) -> None:
        settings.setdefault("port", 0)
        # A server that ends with its owner has nobody to drain for.
        settings.setdefault("drain_seconds", 1.0)
        self._process = subprocess.Popen(  # noqa: S603 -- our own module
            [sys.executable, *self._child, json.dumps(settings, default=str)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if log is None else log,
            text=True,
            env=_environment(),
            start_new_session=True,  # Ctrl-C in a terminal is for the owner
        )
        line = self._line()
        answer = json.loads(line) if line else {"error": "the server ended before it was ready"}
        if "error" in answer:
            self.close()
            raise StartupError(answer["error"])
        self.target: str = answer["target"]
        """Where clients connect to."""

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    def close(self) -> None:
        """Stops the server and waits for it; a second time does nothing."""
        with suppress(BrokenPipeError):
            if self._process.stdin:
                self._process.stdin.close()
        # A fork of the owner may hold the other end of that pipe open.
        self._process.terminate()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()

    def _line(self) -> str:
        """The next that it says; nothing where it has ended."""
        return self._process.stdout.readline() if self._process.stdout else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _environment() -> dict[str, str]:
    """The owner's, without settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
