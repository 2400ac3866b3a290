"""Trend Micro InterScan: what was sent and received, `Sent <<< RCPT TO:<a>`, `Received >>> 550 …`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mailecho.pipeline.classify.row import Row
from mailecho.pipeline.message.addresses import ADDRESS, tidy

if TYPE_CHECKING:
    from mailecho.pipeline.classify.letter import Letter

NAME = "interscan"
MARKS = (r"sent\s+<<<\s+rcpt\s+to:", r"message\s+from\s+interscan")

_ASKED = re.compile(rf"(?i)sent\s+<<<\s+RCPT TO:\s*<({ADDRESS.pattern})>")
_UNABLE = re.compile(rf"(?i)unable to deliver message to\s+<({ADDRESS.pattern})>")
_ANSWER = re.compile(r"(?i)received\s+>>>\s+(.{3,500})")


def read(letter: Letter) -> list[Row]:
    """Rows of the recipients that were asked for and not taken."""
    text = letter.text
    rows = []
    for found in list(_UNABLE.finditer(text))[:100] or list(_ASKED.finditer(text))[:100]:
        answer = _ANSWER.search(text, found.end()) or _ANSWER.search(text)
        rows.append(Row(tidy(found[1]), answer[1].strip() if answer else ""))
    return rows
