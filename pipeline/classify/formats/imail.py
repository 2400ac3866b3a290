"""Ipswitch IMail (SMTP32) and those who put the reason before the address on one line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mailecho.pipeline.classify.row import MAX_ROWS, Row
from mailecho.pipeline.message.addresses import ADDRESS, tidy

if TYPE_CHECKING:
    from mailecho.pipeline.classify.letter import Letter

NAME = "imail"
MARKS = (
    r"\n\s*(?:unknown\s+user|unknown\s+host|user\s+mailbox\s+exceeds\s+allowed\s+size|invalid\s+final\s+delivery\s+userid|invalid\s+(?:user|recipient|address)|delivery\s+failed\s+(?:in\s+)?[^\n:]{0,60}|undeliverable\s+(?:to|message\s+to)|mailbox\s+(?:is\s+)?full|user\s+not\s+found|no\s+such\s+user|account\s+is\s+disabled|quota\s+exceeded):?\s+<?[^\s@]+@",
)

_LINE = re.compile(
    r"(?im)^[ \t]*((?:unknown|user|invalid|delivery failed|undeliverable|mailbox|no such|account|quota|host|message"
    rf"|error)[^\n@:]{{0,100}}?):?[ \t]+<?({ADDRESS.pattern})>?[ \t]*(.*)$"
)


def read(letter: Letter) -> list[Row]:
    """Rows of `reason: address` lines; the lines after one belong to it."""
    text = letter.text
    rows: list[Row] = []
    found = list(_LINE.finditer(text))[:MAX_ROWS]
    for index, match in enumerate(found):
        end = found[index + 1].start() if index + 1 < len(found) else min(len(text), match.end() + 600)
        rest = " ".join(text[match.end() : end].split())
        rows.append(Row(tidy(match[2]), f"{match[1]}: {match[3]}", aside=rest))
    return rows
