"""Classification losses and their gradients from a losswire server.

>>> import losswire
>>> with losswire.Client(target) as client:
...     result = client.softmax_cross_entropy([[2.0, 1.0, 0.5]], [0])
>>> result.loss.round(4).tolist()
[0.4644]
"""

from losswire._async_client import AsyncClient
from losswire._client import Client
from losswire._default import default_client, set_default_client
from losswire._errors import (
    DeadlineExceeded,
    InvalidInput,
    LosswireError,
    PermissionDenied,
    ServerBusy,
    ServerError,
    ServerUnavailable,
    Unauthenticated,
)
from losswire._results import LossResult, ServerInfo
from losswire_proto import __version__

__all__ = [
    "AsyncClient",
    "Client",
    "DeadlineExceeded",
    "InvalidInput",
    "LossResult",
    "LosswireError",
    "PermissionDenied",
    "ServerBusy",
    "ServerError",
    "ServerInfo",
    "ServerUnavailable",
    "Unauthenticated",
    "__version__",
    "default_client",
    "set_default_client",
]
