"""Exim's report, and mail.ru's and GMX's, which are built on it.

Addresses are indented by two blanks, their reasons by four (Exim source, deliver.c). GMX and 1&1 put the address
in quotes and the reply under `host:` and `Reason:`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mailecho.pipeline.classify.formats.lines import address_of, address_rows, sent_to
from mailecho.pipeline.classify.row import MAX_ROWS, Row
from mailecho.pipeline.message.addresses import find_addresses

if TYPE_CHECKING:
    from mailecho.pipeline.classify.letter import Letter

NAME = "exim"
MARKS = (
    r"this\s+message\s+was\s+created\s+automatically\s+by\s+(?:the\s+)?(?:mail\s+delivery\s+software|the\s+smtp|mail\s+server)",
    r"this\s+message\s+was\s+created\s+automatically\s+by\s+the",
    r"a\s+message\s+that\s+you\s+(?:sent|have\s+sent)\s+(?:could\s+not|has\s+not)",
    r"a\s+message\s+sent\s+by\s+[^\n]{0,120}\s+could\s+not\s+be\s+delivered",
    r"(?:the\s+)?following\s+address(?:\(es\)|es)?\s+failed",
    r"smtp\s+error\s+from\s+remote\s+(?:mail\s+)?server",
    r"the\s+address(?:es)?\s+to\s+which\s+the\s+message\s+has\s+not\s+yet\s+been\s+delivered",
)

_FROM = re.compile(
    r"(?i)following address(?:\(es\)|es)? failed:?|(?:could not be delivered to(?: (?:one or more|all|some) of its)?"
    r"(?: recipients?)?:?)|not yet been\s+delivered (?:is|are):?|could not be delivered:|delivery to the following"
    r"|recipients? (?:of your message )?(?:is|are|was|were):"
)
_HOST = re.compile(r"(?i)\bhost:?\s+([a-z0-9.-]+\.[a-z]{2,})")


def read(letter: Letter) -> list[Row]:
    """Rows of an Exim report; with none readable, X-Failed-Recipients and the whole text."""
    text = letter.text
    start = 0
    for found in _FROM.finditer(text):
        start = found.end()
        if "failed" in found[0].lower() or "not yet" in found[0].lower():
            break
    lines = text[start:].split("\n") if start else []
    rows = _indented(lines) or address_rows(lines)
    if not rows:
        failed = find_addresses(letter.headers.first("x-failed-recipients"))
        rows = [Row(address, text[start:] if len(failed) == 1 else "") for address in failed]
    for row in rows:
        host = _HOST.search(row.diagnostic)
        if host:
            row.remote_host = host[1]
    return rows


def _indented(lines: list[str]) -> list[Row]:
    """Rows by their indentation; [] where the list is not laid out as Exim does."""
    rows: list[Row] = []
    for line in lines:
        if line[:2] == "  " and line[2:3] not in (" ", "") and len(rows) < MAX_ROWS:
            named = address_of(line[2:])
            if named is None:
                return []
            rows.append(Row(*named))
        elif line[:4] == "    " and rows:
            said = line.strip()
            rows[-1].recipient = sent_to(said, rows[-1].recipient)
            if len(rows[-1].diagnostic) < 3000:
                rows[-1].diagnostic = f"{rows[-1].diagnostic} {said}".strip()
        elif rows and line.strip():
            break
    return rows
