"""qmail and those who write like it: `<address>:` and then the reason (also Postfix, Courier, Yahoo, OpenSMTPD).

qmail's format: https://cr.yp.to/proto/qsbmf.txt (QSBMF).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mailecho.pipeline.classify.formats.lines import address_rows
from mailecho.pipeline.classify.row import Row

if TYPE_CHECKING:
    from mailecho.pipeline.classify.letter import Letter

NAME = "angle"
MARKS = (
    r"hi\.\s+this\s+is\s+the\s+(?:qmail|mail|deliver)",
    r"this\s+is\s+the\s+[^\n]{1,60}\s+(?:at|program|for|on)\s+(?:host\s+)?[a-z0-9]",
    r"i(?:'m|\s+am)\s+(?:afraid|sorry)[\s,]+(?:i\s+|to\s+)?(?:wasn't|have\s+to\s+inform)",
    r"i\s+wasn't\s+able\s+to\s+deliver",
    r"this\s+is\s+a\s+permanent\s+error;",
    r"unable\s+to\s+deliver\s+(?:the\s+|your\s+)?message\s+to\s+the\s+following",
    r"your\s+message\s+to\s+the\s+following\s+recipients?\s+cannot\s+be\s+delivered",
    r"message\s+from\s+[a-z0-9.]+\.\s+unable\s+to\s+deliver",
    r"the\s+following\s+list\s+of\s+recipients",
    r"could\s+not\s+be\s+delivered\s+to\s+(?:the\s+following|one\s+or\s+more)",
    r"could\s+not\s+deliver\s+(?:the\s+|your\s+)?(?:attached\s+)?(?:message|mail)\s+to\s+the\s+following",
    r"the\s+following\s+address(?:es|\(es\))?\s+(?:had|failed|could|are|were)",
    r"delivery\s+to\s+the\s+following\s+(?:recipient|address)",
    r"\n<[^<>@\s]{1,100}@[^<>@\s]{1,200}>:\s",
)


def read(letter: Letter) -> list[Row]:
    """Rows of `<address>: reason` paragraphs."""
    rows = address_rows(letter.text.split("\n"))
    told = [row for row in rows if row.diagnostic]
    return told or rows
