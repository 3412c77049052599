"""What the README and the pages of the documentation show is what happens."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from losswire_server.config import ServerSettings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    path.stem: path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
EXAMPLES = {
    f"{name} {number}": example
    for name, page in PAGES.items()
    for number, example in enumerate(
        re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", page, flags=re.DOTALL), start=1
    )
}


def test_every_python_block_has_its_output():
    """No code block goes unrun."""
    assert len(EXAMPLES) == "".join(PAGES.values()).count("```python") == 4


@pytest.mark.parametrize(("code", "printed"), EXAMPLES.values(), ids=EXAMPLES)
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


def commands():
    """The `losswire` commands in shell blocks, each with its flags."""
    for name, page in PAGES.items():
        for block in re.findall(r"```sh\n(.*?)```", page, flags=re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                shown = re.search(r"\blosswire (serve|demo|bench|check|loss|top)\b([^#|]*)", line)
                if shown:
                    flags = re.findall(r"\s(--[\w-]+)", shown[2])
                    yield pytest.param(shown[1], flags, id=f"{name}: {shown[0].strip()}")


@pytest.mark.parametrize(("command", "flags"), list(commands()))
def test_commands_have_the_flags_that_are_shown(command, flags):
    """No page shows a flag that is misspelt or has gone."""
    ran = subprocess.run(
        [sys.executable, "-m", "losswire", command, "--help"],
        env={"COLUMNS": "200", "TERM": "dumb", "LOSSWIRE_TARGET": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert [flag for flag in flags if not re.search(rf"{flag}(?![\w-])", ran.stdout)] == []
