"""The public names of both packages, pinned."""

import inspect
import subprocess
import sys
from dataclasses import fields

import pytest

import losswire
import losswire_server
from losswire_proto.losses import LOSSES, LossCall

NAMES = [
    "AsyncClient", "Client", "DeadlineExceeded", "InvalidInput", "LossResult", "LosswireError",
    "PermissionDenied", "ServerBusy", "ServerError", "ServerInfo", "ServerUnavailable",
    "Unauthenticated", "__version__", "default_client", "set_default_client",
]  # fmt: skip


def test_names():
    """What users import, no more and no less."""
    assert losswire.__all__ == NAMES
    assert losswire_server.__all__ == ["LocalServer"]


@pytest.mark.parametrize("name", [n for n in NAMES if inspect.isclass(getattr(losswire, n))])
def test_public_classes_are_documented(name):
    """Each public class, and each of its public members, says what it is."""
    cls = getattr(losswire, name)
    assert inspect.getdoc(cls)
    for member, value in inspect.getmembers(cls, inspect.isfunction):
        assert member.startswith("_") or inspect.getdoc(value), member


def test_the_error_tree():
    """One root; bad input is a ValueError, a missed deadline a TimeoutError."""
    tree = [losswire.InvalidInput, losswire.ServerBusy, losswire.ServerUnavailable]
    tree += [losswire.DeadlineExceeded, losswire.Unauthenticated, losswire.PermissionDenied]
    tree += [losswire.ServerError]
    assert all(issubclass(error, losswire.LosswireError) for error in tree)
    assert issubclass(losswire.InvalidInput, ValueError)
    assert issubclass(losswire.DeadlineExceeded, TimeoutError)


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
def test_keywords_follow_the_definitions(loss):
    """A method's keywords are its loss's options and the common ones, with the same defaults."""
    parameters = inspect.signature(getattr(losswire.Client, loss.name)).parameters
    # Softmax is no loss, and the averages of sequence_loss are its reductions.
    has_reductions = loss.readings != ("none",) and loss.name != "sequence_loss"
    for definition in (loss, LossCall) if has_reductions else (loss,):
        for option in fields(definition):
            if "check" in option.metadata and not option.name.startswith("grad_"):
                assert parameters[option.name].default == option.default, option.name
    own = {option.name for option in fields(loss)} | {option.name for option in fields(LossCall)}
    own |= {
        "self",
        "gradients",
        "overwrite_logits",
        "timeout",
        loss.input_name,
        loss.labels_name,
        *loss.weights,
    }
    if loss.name == "sequence_loss":
        own.add("weights")  # the name that its users know for sample weights
    assert set(parameters) <= own


def test_importing_has_no_effects():
    """Importing the client starts no thread, reads no setting and loads no server."""
    script = (
        "import os, sys, threading\n"
        "os.environ['LOSSWIRE_TARGET'] = 'not a target'\n"
        "import losswire\n"
        "assert threading.active_count() == 1\n"
        "loaded = [m for m in sys.modules if m.split('.')[0] in"
        " {'losswire_server', 'typer', 'pydantic', 'cupy', 'torch', 'jax', 'tensorflow',"
        " 'keras'}]\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
