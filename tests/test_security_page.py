"""What SECURITY.md says is tested, is."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_each_defence_names_tests_that_exist():
    """Every row of the table names at least one test, and all that it names are there."""
    written = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/*.py"))
    there = set(re.findall(r"def (test_\w+)\(", written))
    rows = re.findall(r"^\| (?!against|---)(.*) \|$", PAGE, flags=re.MULTILINE)
    assert len(rows) > 10
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row)
        assert named, row
        assert set(named) <= there
