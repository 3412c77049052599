"""docs/errors.md is what the client raises."""

import re
from pathlib import Path

import losswire

PAGE = (Path(__file__).parents[2] / "docs/errors.md").read_text(encoding="utf-8")


def test_every_error_is_there_with_its_status():
    """Name, the built-in exception that it is too, and the status it stands for."""
    rows = re.findall(r"^\| `(\w+)` \| (?:`(\w+)`)? ?\| (.*?) \|", PAGE, flags=re.MULTILINE)
    kinds = losswire.LosswireError.__subclasses__()
    assert [name for name, _, _ in rows] == [kind.__name__ for kind in kinds]
    for (_, builtin, status), kind in zip(rows, kinds, strict=True):
        assert kind.default_code.name in status
        others = [base.__name__ for base in kind.__bases__ if base is not losswire.LosswireError]
        assert others == ([builtin] if builtin else [])
