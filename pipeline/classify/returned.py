"""Where a report ends and the message that it returns begins."""

from __future__ import annotations

import re

#: The header block of a returned message that nothing announces: a trace field at the start of a line.
_TRACE = re.compile(r"(?m)^(?:Received: (?:from|by|\(from) |Return-Path: <|X-Original-To: |Delivered-To: )")


def trace_start(text: str) -> int:
    """Where a header block with trace fields begins in a text, -1 where none does."""
    found = _TRACE.search(text)
    return found.start() if found else -1
