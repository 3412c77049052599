"""The child process of a `LocalServer`: serves for as long as standard input is open.

In: settings as JSON, the first argument. Out: one line of JSON on standard output, the target once
calls are answered, or why there is none.
"""

from __future__ import annotations

import asyncio
import json
import sys

from losswire_server import logs, memory, runtime
from losswire_server.config import ServerSettings, load_settings
from losswire_server.errors import ServingFailed, StartupError


async def _serve_while_stdin_is_open(settings: ServerSettings) -> None:
    stop = asyncio.Event()
    runtime.stop_on_signals(stop)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    owner = asyncio.create_task(reader.read())
    owner.add_done_callback(lambda _task: stop.set())
    await runtime.serve(settings, stop, lambda target: _answer(target=target))
    owner.cancel()


def _answer(**fields: str) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Serves until the owner ends it."""
    try:
        settings = load_settings(**json.loads(sys.argv[1]))
        logs.configure(settings)
        memory.keep_buffers(settings.pool_bytes)
        asyncio.run(_serve_while_stdin_is_open(settings))
    except StartupError as error:
        _answer(error=str(error))
        raise SystemExit(2) from error
    except ServingFailed as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
