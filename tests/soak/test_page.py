"""What docs/reliability.md says of the last long run is what it showed."""

import json

import pytest
from benchmarks.soak import page, promises


@pytest.fixture(scope="module")
def figures():
    return json.loads(page.FIGURES.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def fuzzing():
    return json.loads(page.FUZZING.read_text(encoding="utf-8"))


def test_the_table_has_the_figures_of_the_last_long_run(figures, fuzzing):
    """Rewriting the table would change nothing."""
    text = page.PAGE.read_text(encoding="utf-8")
    shown = text.partition(page.BEGIN)[2].partition(page.END)[0]
    assert shown.strip() == page.table(figures, fuzzing).strip()


def test_what_was_broken_is_what_the_figures_say(figures):
    """The verdict follows from the figures by today's limits."""
    assert figures["broken"] == promises.broken(figures)


def test_the_table_tells_what_is_broken(figures, fuzzing):
    """A lost call is in its row, and below the table."""
    lost = {**figures, "faults": {**figures["faults"], "lost": 3}}
    text = page.table({**lost, "broken": promises.broken(lost)}, fuzzing)
    assert "lost: 3, wrong: 0" in text
    assert "faults: 3 lost" in text
