"""LocalServer: a child process that serves and goes."""

import os
import select
import signal
import subprocess
import sys

import pytest

import losswire
from losswire_server import LocalServer
from losswire_server.errors import StartupError


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_it_serves_and_goes():
    """Within the block it answers; after it the process is gone; closing twice is fine."""
    with LocalServer(engine="numpy", max_wait_us=200) as server:
        assert server.pid != os.getpid()
        with losswire.Client(server.target) as client:
            assert client.server_info().backend == "numpy"
    assert not is_alive(server.pid)
    server.close()


def test_unknown_settings_are_refused():
    """A keyword that is no setting is named."""
    with pytest.raises(StartupError, match="engin: no such setting"):
        LocalServer(engin="numpy")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOKEN_FILE", "/nowhere/tokens"),
        ("TLS_CERTIFICATE", "/nowhere/server.pem"),
        ("METRICS_PORT", "99999"),
        ("CONFIG", "/nowhere/losswire.toml"),
        ("MAX_WAIT_US", "not a number"),
        ("HOTS", "a slip"),
    ],
)
def test_settings_of_others_do_not_reach_it(monkeypatch, name, value):
    """What is set for a server of the owner's environment is not for this one."""
    monkeypatch.setenv(f"LOSSWIRE_{name}", value)
    with LocalServer(engine="numpy") as server, losswire.Client(server.target) as client:
        assert client.server_info().backend == "numpy"


def test_it_does_not_outlive_its_owner():
    """When the owner is killed, the server ends by itself."""
    script = (
        "from losswire_server import LocalServer; import os, signal\n"
        "server = LocalServer(engine='numpy')\n"
        "print(server.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    owner = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert owner.returncode == -signal.SIGKILL
    pid = int(owner.stdout)
    try:
        # pidfd becomes readable when the process ends; no polling of a number that may be reused
        with open(os.pidfd_open(pid)) as ended:  # noqa: PTH123 -- a descriptor, not a path
            assert select.select([ended], [], [], 30)[0], "the server is still there after 30 s"
    except ProcessLookupError:
        pass
