"""Novell GroupWise and others that list `address (reason)`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mailecho.pipeline.classify.formats.lines import address_rows
from mailecho.pipeline.classify.row import Row

if TYPE_CHECKING:
    from mailecho.pipeline.classify.letter import Letter

NAME = "groupwise"
MARKS = (
    r"the\s+message\s+that\s+you\s+sent\s+was\s+undeliverable\s+to\s+the\s+following",
    r"was\s+undeliverable\s+to\s+the\s+following",
)

_BEGIN = re.compile(r"(?i)undeliverable\s+to\s+the\s+following:?")


def read(letter: Letter) -> list[Row]:
    """Rows of `address (reason)` lines."""
    found = _BEGIN.search(letter.text)
    return address_rows(letter.text[found.end() :].split("\n")) if found else []
