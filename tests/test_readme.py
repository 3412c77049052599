"""What the README and the page on paths show is what happens."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from losswire_server.config import ServerSettings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PATHS = (ROOT / "docs" / "paths.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", README + PATHS, flags=re.DOTALL)


def test_every_python_block_has_its_output():
    """No code block goes unrun."""
    assert len(EXAMPLES) == (README + PATHS).count("```python") == 3


@pytest.mark.parametrize(("code", "printed"), EXAMPLES, ids=["client", "local server", "paths"])
def test_examples(server, tmp_path, code, printed):
    """Each block, run as a user would, prints what stands below it."""
    script = tmp_path / "example.py"
    script.write_text(code, encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, str(script)],
        env={"LOSSWIRE_TARGET": server.target},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == printed


def test_configuration_table():
    """The table lists every setting, and no other."""
    table = README.split("## Configuration")[1].split("##")[0]
    listed = {
        name
        for row in re.findall(r"^\| (`.*?) \|", table, flags=re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    assert listed == set(ServerSettings.model_fields)


def test_length():
    """The README stays between 500 and 800 words, code and the lines of tables left out."""
    prose = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    assert 500 <= len([word for word in prose.split() if re.search(r"\w", word)]) <= 800
