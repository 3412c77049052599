"""Certificates for tests, made by an authority of their own."""

from dataclasses import dataclass
from pathlib import Path

import grpc
import trustme


@dataclass
class Authority:
    """An authority and the folder that its files lie in."""

    folder: Path

    def __post_init__(self):
        self._authority = trustme.CA()
        self.folder.mkdir(exist_ok=True)
        self.pem = self._authority.cert_pem.bytes()
        self.file = self.folder / "authority.pem"
        self.file.write_bytes(self.pem)

    def write_server(self, *names, **validity):
        """Certifies a server; its files replace those written before, as settings.

        It is good for long, unless `not_before` and `not_after` say otherwise.
        """
        chain, key = self._issue(*(names or ("localhost", "127.0.0.1")), **validity)
        return {
            "host": "127.0.0.1",
            "tls_certificate": replace(self.folder / "server.pem", chain),
            "tls_key": replace(self.folder / "server.key", key),
        }

    def client(self, *, trusts=None, name="worker.example"):
        """gRPC credentials of a client that this authority certifies."""
        chain, key = self._issue(name)
        return grpc.ssl_channel_credentials(trusts or self.pem, key, chain)

    def _issue(self, *names, **validity):
        issued = self._authority.issue_cert(*names, **validity)
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        return chain, issued.private_key_pem.bytes()


def replace(path, contents):
    """Puts a file in the place of another in one step, as whoever rotates secrets does."""
    new = path.with_suffix(".new")
    new.write_bytes(contents)
    return new.rename(path)
