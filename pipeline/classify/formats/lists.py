"""Mailing list managers that refuse a posting: Mailman, LISTSERV, fml, Majordomo, Sympa.

They write as themselves, not as a mail system, and the address that failed is the list's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mailecho.pipeline.classify.row import Row
from mailecho.pipeline.message.addresses import ADDRESS, tidy

if TYPE_CHECKING:
    from mailecho.pipeline.classify.letter import Letter

NAME = "lists"
MARKS = (
    r"you(?:'re|\s+are)\s+not\s+a?\s*(?:member|subscriber)\s+of\s+(?:this|the)\s+(?:mailing\s+)?list",
    r"you\s+are\s+not\s+(?:authori[sz]ed|allowed)\s+to\s+(?:send\s+mail|post)\s+to\s+(?:the|this)\s+[^\n]{0,60}list",
    r"your\s+request\s+to\s+the\s+[^\n]{3,100}\s+mailing\s+list\s",
    r"your\s+(?:message|posting)\s+to\s+[^\n]{3,100}\s+(?:was|has\s+been)\s+(?:automatically\s+)?rejected",
)

_LIST = (
    re.compile(rf"(?i)(?:mailing\s+)?list\s+<({ADDRESS.pattern})>"),
    re.compile(rf"(?i)request\s+to\s+the\s+<?({ADDRESS.pattern})>?\s+mailing\s+list"),
    re.compile(rf"(?i)list\s+address\s+is\s+<?({ADDRESS.pattern})"),
    re.compile(rf"(?i)(?:message|posting|post)\s+to\s+(?:the\s+)?(?:list\s+)?<?({ADDRESS.pattern})"),
)


def by_list_manager(letter: Letter) -> bool:
    """Whether a list manager wrote it, as its headers or its sender say."""
    headers, sender = letter.headers, letter.sender
    return (
        "x-mlserver" in headers
        or "x-mailman-version" in headers
        or "list-id" in headers
        or any(
            name in sender for name in ("listserv", "majordomo", "sympa", "mailman", "-bounces@", "-owner@", "-admin@")
        )
    )


def read(letter: Letter) -> list[Row]:
    """The row of the list."""
    text = letter.text
    for pattern in _LIST:
        found = pattern.search(text)
        if found:
            return [Row(tidy(found[1]), aside=" ".join(text.split())[:4000])]
    return []
