"""Complaints that are no ARF: Microsoft's feedback before 2026, X-HmXmr headers, unsubscribe mail of Apple Mail."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mailecho.pipeline.message.headers import Headers

if TYPE_CHECKING:
    from mailecho.pipeline.classify.letter import Letter

_COMPLAINT = re.compile(r"complaint about (?:a )?message from[ :]+\[?([0-9a-f.:]{3,45})", re.I)
_FIELDS = re.compile(r"(?im)^[ \t>]{0,3}feedback-type[ \t]*:")


def read(letter: Letter) -> tuple[Headers, str] | None:
    """(fields in ARF's names, feedback type) of a complaint in another form, None where it is none."""
    found = _COMPLAINT.search(letter.subject)
    if found and ("staff@hotmail" in letter.sender or letter.enclosed is not None):
        return Headers(f"Source-IP: {found[1]}"), "abuse"
    if letter.headers.first("x-apple-unsubscribe").lower() == "true":
        return Headers(f"Original-Rcpt-To: {letter.headers.first('from')}"), "opt-out"
    text = letter.text if "ultipart/report" in letter.headers.first("content-type") else ""
    if text and _FIELDS.search(text) and "user-agent" in text.lower():
        start = _FIELDS.search(text)
        fields = Headers(text[start.start() :].strip() if start else "")
        return fields, fields.first("feedback-type").lower() or "other"
    return None
