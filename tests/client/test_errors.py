"""Which of our errors one of gRPC's stands for."""

import grpc
import pytest

import losswire
from losswire._errors import from_rpc


class Failure(grpc.RpcError):
    """A call that ended so."""

    def __init__(self, code, details):
        super().__init__()
        self._code, self._details = code, details

    def code(self):
        return self._code

    def details(self):
        return self._details

    def trailing_metadata(self):
        return ()


@pytest.mark.parametrize(
    ("code", "details", "kind"),
    [
        ("UNKNOWN", "Stream removed (Unwrap failed (TSI_DATA_CORRUPTED))", "ServerUnavailable"),
        ("UNKNOWN", "Unexpected exception", "ServerError"),
        ("CANCELLED", "CANCELLED", "ServerUnavailable"),
        ("CANCELLED", "Channel closed!", "ServerError"),
    ],
)
def test_calls_that_were_cut_off(code, details, kind):
    """A connection that broke is ServerUnavailable, to be tried again, whatever gRPC says."""
    error = from_rpc(Failure(grpc.StatusCode[code], details), "here", 1.0)
    assert type(error) is getattr(losswire, kind)
    assert details in str(error)
    assert error.code is grpc.StatusCode[code]
