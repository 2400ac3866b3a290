"""AOL's older notice: screen names without a domain, which is that of the sender."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mailecho.pipeline.classify.row import Row

if TYPE_CHECKING:
    from mailecho.pipeline.classify.letter import Letter

NAME = "aol"
MARKS = (r"your\s+mail\s+to\s+the\s+following\s+recipients\s+could\s+not\s+be\s+delivered\s+because[\s=]+they\s+are",)

_LISTED = re.compile(r"(?is)because[\s=]+they\s+are(.{0,300}?):\s*((?:\s*[A-Za-z0-9][A-Za-z0-9._-]{1,60}\s*\n)+)")
_DOMAIN = re.compile(r"@([a-z0-9.-]+\.[a-z]{2,})")


def read(letter: Letter) -> list[Row]:
    """Rows of the screen names."""
    found = _LISTED.search(letter.text + "\n")
    domain = _DOMAIN.search(letter.sender)
    if not found:
        return []
    reason = " ".join(f"because they are {found[1]}".split())
    host = domain[1] if domain else "aol.com"
    return [Row(f"{name}@{host}", reason) for name in found[2].split()]
