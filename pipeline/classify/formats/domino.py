"""HCL (IBM Lotus) Domino: `was not delivered to:` … `because:`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mailecho.pipeline.classify.row import Row
from mailecho.pipeline.message.addresses import find_addresses

if TYPE_CHECKING:
    from mailecho.pipeline.classify.letter import Letter

NAME = "domino"
MARKS = (
    r"was\s+not\s+delivered\s+to:?\s",
    r"failure\s+reasons?",
    r"n'a\s+pas\s+.{1,2}t.{1,2}\s+(?:remis|distribu|livr).{1,3}\s+.{1,2}",
    r"wurde\s+nicht\s+zugestellt\s+an",
)

_BLOCK = re.compile(r"(?is)was\s+not\s+delivered\s+to:?\s*(.{1,2000}?)\s*because:?\s*(.{1,2000})")
_REASONS = re.compile(r"(?is)failure reasons?[^\n]*\n(.{1,2000})")


def read(letter: Letter) -> list[Row]:
    """Rows of a Domino report."""
    text = letter.text
    found = _BLOCK.search(text)
    if found:
        return [Row(address, " ".join(found[2].split())) for address in find_addresses(found[1])]
    reasons = _REASONS.search(text)
    if reasons:
        return [Row(address, " ".join(reasons[1].split())) for address in find_addresses(reasons[1])[:1]]
    return []
