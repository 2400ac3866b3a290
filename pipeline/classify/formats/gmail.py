"""Gmail in words: the older report, and the notice about a group that takes no mail from us."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mailecho.pipeline.classify.formats.lines import address_of
from mailecho.pipeline.classify.row import Row
from mailecho.pipeline.message.addresses import find_addresses

if TYPE_CHECKING:
    from mailecho.pipeline.classify.letter import Letter

NAME = "gmail"
MARKS = (
    r"technical\s+details\s+of\s+(?:permanent|temporary)\s+failure",
    r"delivery\s+to\s+the\s+following\s+recipients?\s+(?:failed\s+permanently|has\s+been\s+delayed|was\s+aborted)",
    r"the\s+error\s+that\s+the\s+other\s+server\s+returned\s+was",
    r"we're\s+writing\s+to\s+let\s+you\s+know\s+that\s+the\s+group",
    r"message\s+will\s+be\s+retried\s+for",
)

_DETAILS = re.compile(r"(?i)technical details of \w+ failure:?")
_TOLD = re.compile(r"(?i)the error that the other server returned was:\s*(.{3,3000})")
_HOST = re.compile(r"(?i)(?:server for the recipient domain \S+ by|relay|by)\s+([a-z0-9.-]+)\.?\s+\[")


def read(letter: Letter) -> list[Row]:
    """Rows of a Gmail report."""
    text = letter.text
    details = _DETAILS.search(text)
    diagnostic = " ".join((text[details.end() :] if details else text).split())[:3000]
    told = _TOLD.search(diagnostic)
    if told:
        diagnostic = told[1]
    if "message will be retried" in text.lower():
        diagnostic += " Message will be retried"
    addresses = find_addresses(letter.headers.first("x-failed-recipients"))
    if not addresses:
        listed = text[: details.start()] if details else text
        addresses = [named[0] for line in listed.split("\n") if (named := address_of(line)) is not None]
    host = _HOST.search(diagnostic)
    remote = host[1] if host else ("googlegroups.com" if "let you know that the group" in text else "")
    return [Row(address, diagnostic, remote_host=remote) for address in addresses]
