"""The table of failures in docs/DESIGN.md names tests that there are, and every row of the matrix."""

from __future__ import annotations

import re
from pathlib import Path

from tests.faults.test_matrix import ROWS

ROOT = Path(__file__).parents[2]


def shown_by() -> list[set[str]]:
    """The names in the last column, row by row."""
    text = (ROOT / "docs" / "DESIGN.md").read_text()
    section = text.partition("## When something fails")[2].partition("\n## ")[0].partition("\n### ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [set(re.findall(r"`(\w+)`", row.rpartition(" | ")[2])) for row in rows]


def test_every_row_names_what_shows_it_and_that_exists() -> None:
    tests = set()
    for file in (ROOT / "tests").rglob("test_*.py"):
        tests |= set(re.findall(r"^(?:async )?def (test_\w+)\(", file.read_text(), re.MULTILINE))
    named = shown_by()
    assert len(named) > 30
    assert all(named), "a failure that nothing shows"
    assert set().union(*named) - tests - ROWS.keys() == set()


def test_every_row_of_the_matrix_is_in_the_table() -> None:
    assert ROWS.keys() - set().union(*shown_by()) == set()
