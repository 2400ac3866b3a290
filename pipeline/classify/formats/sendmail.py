"""sendmail's report in words: the list of addresses, and the transcript of the session.

The transcript has what was asked (`>>> RCPT To:<a>`) and answered (`<<< 550 …`), then sendmail's own verdict
(`550 <a>... User unknown`). Old versions (5.x) have only the transcript.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mailecho.pipeline.classify.formats.lines import address_of
from mailecho.pipeline.classify.row import MAX_ROWS, Row
from mailecho.pipeline.message.addresses import ADDRESS, find_addresses, tidy

if TYPE_CHECKING:
    from mailecho.pipeline.classify.letter import Letter

NAME = "sendmail"
MARKS = (
    r"---+\s*the\s+following\s+addresses\s+had\s+(?:permanent|transient|delivery|fatal|successful|non)",
    r"---+\s*transcript\s+of\s+(?:the\s+)?session\s+(?:follows|is)",
    r"---+\s*transcript\s+of\s+(?:the\s+)?session",
)

_SECTION = re.compile(r"(?im)^\s*-{3,}\s*(.{3,100}?)\s*-{3,}\s*$")
_OWN = re.compile(
    rf"^(?:(\d\d\d)[ -])?\s*(?:([245]\.\d{{1,3}}\.\d{{1,3}})\s+)?<?({ADDRESS.pattern})>?\s*\.\.\.\s*(.*)$"
)
_REASON = re.compile(r"(?i)^\(reason:\s*(.*?)\)?$")
_EXPANDED = re.compile(rf"(?i)^\(expanded from:?\s*<?({ADDRESS.pattern})?>?.*\)$")
_HOST = re.compile(r"(?i)(?:while talking to|connecting to)\s+\[?([a-z0-9.-]+)")


def read(letter: Letter) -> list[Row]:
    """Rows of the address list, else of the transcript."""
    listed: list[str] = []
    transcript: list[str] = []
    current: list[str] | None = None
    for line in letter.text.split("\n"):
        found = _SECTION.match(line)
        if found:
            title = found[1].lower()
            current = listed if "addresses" in title else transcript if "transcript" in title else None
        elif current is not None:
            current.append(line)
    rows = _listed(listed)
    replies = _replies(transcript)
    if not rows:
        rows = [Row(address) for address in replies if address]
    for row in rows:
        told = replies.get(row.recipient.lower()) or (replies.get("") if len(rows) == 1 else "")
        if told:
            row.diagnostic = f"{told} {row.diagnostic}".strip() if told not in row.diagnostic else row.diagnostic
    host = _HOST.search("\n".join(transcript))
    for row in rows:
        row.remote_host = host[1].rstrip(".") if host else ""
        row.aside = " ".join(transcript)[:2000]
    return rows


def _listed(lines: list[str]) -> list[Row]:
    rows: list[Row] = []
    for line in lines:
        stripped = line.strip()
        if stripped.startswith(">>>"):
            stripped = stripped.lstrip("> ")
        if len(rows) >= MAX_ROWS or not stripped:
            continue
        reason = _REASON.match(stripped)
        if reason and rows:
            rows[-1].diagnostic = reason[1]
            continue
        expanded = _EXPANDED.match(stripped)
        if expanded and rows:
            if expanded[1] and "|" not in expanded[1]:
                rows[-1].recipient = tidy(expanded[1])  # what we sent to is the alias, not what it leads to
            continue
        named = address_of(stripped)
        if named:
            rows.append(Row(*named))
    return rows


def _replies(lines: list[str]) -> dict[str, str]:
    """Address in lower case -> what was said of it; "" -> what was said of the message."""
    said: dict[str, list[str]] = {}
    pending: list[str] = []
    asked = ""
    for line in lines:
        stripped = line.strip()
        if stripped.startswith(">>>"):
            named = find_addresses(stripped, 1)
            asked = (
                named[0].lower()
                if named and "rcpt" in stripped.lower()
                else ""
                if "data" in stripped.lower()
                else asked
            )
        elif stripped.startswith("<<<"):
            reply = stripped[3:].strip()
            if reply[:1] in ("4", "5"):
                said.setdefault(asked, []).append(reply)
                pending.append(reply)
        elif found := _OWN.match(stripped):
            address = tidy(found[3]).lower()
            said.setdefault(address, []).extend(pending if address != asked else ())
            said[address].append(stripped)
            pending = []
        elif stripped[:1] in ("4", "5") and stripped[1:3].isdigit():
            said.setdefault(asked, []).append(stripped)
    return {address: " ".join(replies)[:3000] for address, replies in said.items()}
