"""KDDI (au, ezweb.ne.jp) and other carriers: recipients in angle brackets under a sentence that says why."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mailecho.pipeline.classify.row import MAX_ROWS, Row
from mailecho.pipeline.message.addresses import ADDRESS, tidy

if TYPE_CHECKING:
    from mailecho.pipeline.classify.letter import Letter

NAME = "kddi"
MARKS = (
    r"could\s+not\s+be\s+delivered\s+to:\s+<[^>\n]{3,200}>\s+as\s+their",
    r"each\s+of\s+the\s+following\s+recipients\s+was\s+rejected",
    r"the\s+user\(s\)\s+account\s+is",
    r"the\s+following\s+recipients\s+did\s+not\s+receive",
    r"your\s+mail\s+(?:sent|has\s+been\s+rejected)\s+(?:on|because)",
)

_RECIPIENT = re.compile(
    r"(?im)^[ \t]*(?:(?:recipient|as the recipient|to|could not be delivered to)\s*:?[ \t]*)?"
    rf"<({ADDRESS.pattern})>[ \t]*(?::[ \t]*(.*))?$"
)
#: The sentence that says why, which is more than the reply below the address does.
_WHY = re.compile(
    r"(?i)the user\(s\) account is [^\n]{3,200}|each of the following recipients was rejected[^\n]{0,100}"
)


def read(letter: Letter) -> list[Row]:
    """Rows of bracketed recipients; the reason is the sentence before them and the reply after."""
    text = letter.text
    found = list(_RECIPIENT.finditer(text))[:MAX_ROWS]
    why = _WHY.search(text)
    rows = []
    for index, match in enumerate(found):
        end = found[index + 1].start() if index + 1 < len(found) else len(text)
        after = [line.strip().lstrip("<> ") for line in text[match.end() : end].split("\n") if line.strip()]
        told = " ".join((why[0] if why else "", match[2] or "", *after))
        rows.append(Row(tidy(match[1]), told.strip()[:1500]))
    return rows
