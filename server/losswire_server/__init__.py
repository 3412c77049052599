"""The losswire server.

    wire → service → validation → admission → batcher → engine → replies → wire

`service` is where gRPC ends, `validation` where protobuf does; between them travel the frozen
dataclasses of `requests`. `runtime` puts the collaborators together, `command` and `local` start
it: as `losswire serve`, or in a child process for tests and notebooks.
"""

from losswire_server.local import LocalServer

__all__ = ["LocalServer"]
