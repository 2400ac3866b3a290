"""Zoho Mail: `[Status: Error, Address: <a>, ResponseCode 550, reply]`, or `a Invalid Address, ERROR_CODE :550, …`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mailecho.pipeline.classify.row import Row
from mailecho.pipeline.message.addresses import ADDRESS, tidy

if TYPE_CHECKING:
    from mailecho.pipeline.classify.letter import Letter

NAME = "zoho"
MARKS = (r"\[status:\s+error,\s+address:", r"error_code\s+:\d")

_STATUS = re.compile(
    rf"(?i)\[Status:\s*\w+,\s*Address:\s*<?({ADDRESS.pattern})>?,\s*ResponseCode\s*(\d+)?,?\s*([^\]]{{0,500}})\]"
)
_CODES = re.compile(rf"(?im)^\s*<?({ADDRESS.pattern})>?[ ,]+([^\n]*?ERROR_CODE[^\n]*)$")


def read(letter: Letter) -> list[Row]:
    """Rows of Zoho's status brackets or error lines."""
    text = letter.text
    rows = [Row(tidy(m[1]), f"{m[2] or ''} {m[3]}".strip(" ,")) for m in _STATUS.finditer(text)]
    return rows or [Row(tidy(m[1]), re.sub(r"ERROR_CODE\s*:", "", m[2])) for m in _CODES.finditer(text)]
