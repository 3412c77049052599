"""The pages beside the service: metrics for Prometheus, and a status page for people.

In: a registry. Out: over HTTP, `/metrics`, `/status.json` with the same values, and `/`, a page
that draws them. They hold counts and times, never contents, and ask for no token.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from importlib import resources
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from losswire_server.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

    from prometheus_client import CollectorRegistry

_POLICY: Final = (
    "default-src 'self'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)
_PATIENCE_SECONDS: Final = 10


class Monitor:
    """Serves the pages of a registry on threads of its own, until it is closed.

    Args:
        registry: what is shown.
        host: address to listen on.
        port: TCP port; 0 picks a free one.

    Raises:
        StartupError: the address cannot be listened on.
    """

    def __init__(self, registry: CollectorRegistry, host: str, port: int) -> None:
        kind = _Server6 if _family(host, port) == socket.AF_INET6 else _Server
        try:
            self._server: _Server = make_server(host, port, _pages(registry), kind, _Handler)
        except OSError as error:
            raise StartupError(
                f"metrics_port: cannot listen on {host}:{port}: {error.strerror};"
                " choose another metrics_host or metrics_port"
            ) from error
        name = f"[{host}]" if ":" in host else host
        self.url = f"http://{name}:{self._server.server_port}"
        thread = threading.Thread(
            target=self._server.serve_forever, name="losswire-monitor", daemon=True
        )
        thread.start()

    def close(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        # Not HTTPServer's own, which asks the name service who we are.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = _PATIENCE_SECONDS  # of a reader or writer that stops

    def log_message(self, *_: object) -> None:
        """Says nothing of each page."""


def _family(host: str, port: int) -> socket.AddressFamily:
    try:
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    except OSError as error:
        raise StartupError(
            f"metrics_host: {host!r} is no address of this machine: {error.strerror}"
        ) from error


def _pages(registry: CollectorRegistry) -> WSGIApplication:
    page = resources.files("losswire_server").joinpath("status.html").read_bytes()
    contents: dict[str, tuple[str, Callable[[], bytes]]] = {
        "/": ("text/html; charset=utf-8", lambda: page),
        "/status.json": ("application/json", lambda: _values(registry)),
    }
    metrics: WSGIApplication = make_wsgi_app(registry)

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"] or "/"
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            start_response("405 Method Not Allowed", [("Allow", "GET, HEAD")])
            return [b""]
        if path == "/metrics":
            return metrics(environ, start_response)
        if path not in contents:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"/, /metrics and /status.json are here\n"]
        kind, content = contents[path]
        start_response(
            "200 OK",
            [
                ("Content-Type", kind),
                ("Cache-Control", "no-store"),
                ("Content-Security-Policy", _POLICY),
                ("X-Content-Type-Options", "nosniff"),
            ],
        )
        return [content()]

    return application


def _values(registry: CollectorRegistry) -> bytes:
    """All samples as JSON: by name, each with its labels and value; and the time."""
    samples: dict[str, list[dict[str, object]]] = {}
    for family in registry.collect():
        for sample in family.samples:
            one = {"labels": sample.labels, "value": sample.value}
            samples.setdefault(sample.name, []).append(one)
    return json.dumps({"time": time.time(), "samples": samples}).encode()
