"""The command line: its subcommands, its version, and what a base install says."""

import subprocess
import sys

from typer.testing import CliRunner

import losswire
from losswire.cli import app


def test_subcommands():
    """--help lists the subcommands that are plugged in."""
    ran = CliRunner().invoke(app, ["--help"])
    assert ran.exit_code == 0
    assert "serve" in ran.output
    assert "demo" in ran.output
    assert "bench" in ran.output


def test_version():
    """--version prints the version and nothing else."""
    assert CliRunner().invoke(app, ["--version"]).output == f"losswire {losswire.__version__}\n"


def run_without(*missing, arguments):
    """The command line where some packages are not installed."""
    script = (
        "import sys\n"
        f"for name in {missing!r}: sys.modules[name] = None\n"
        f"sys.argv = ['losswire', *{arguments!r}]\n"
        "from losswire.__main__ import main\n"
        "main()\n"
    )
    command = [sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_base_install_says_what_is_missing():
    """Without typer the command is one line and status 2."""
    ran = run_without("typer", arguments=["serve"])
    assert ran.returncode == 2
    assert "pip install 'losswire[server]'" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_an_install_without_the_demo_says_what_is_missing():
    """Without rich, demo is a stand-in that names it, and the others work."""
    ran = run_without("rich", "rich.console", "rich.progress", arguments=["demo", "--epochs", "1"])
    assert ran.returncode == 2
    assert "losswire demo: needs rich" in ran.stderr
    assert "Traceback" not in ran.stderr
