"""Lines that name an address, and the reason that goes with it: what most formats share."""

from __future__ import annotations

import re

from mailecho.pipeline.classify.row import MAX_ROWS, Row
from mailecho.pipeline.message.addresses import ADDRESS, tidy

_A = ADDRESS.pattern
#: `<user@example.com>:`, `user@example.com: reason`, `"user@example.com":`, `<user@example.com> (expanded from <x>): …`
_COLON = re.compile(
    rf"^[ \t]{{0,12}}[-*•]?[ \t]*[<\"'\[]{{0,2}}({_A})[>\"'\]]{{0,2}}[ \t]*(?:\(([^()]{{0,200}})\))?[ \t]*:(.*)$"
)
_SENT_TO = re.compile(rf"(?i)\b(?:expanded|generated) from:?\s*<?({_A})>?")
#: The address alone on its line, perhaps with a remark in brackets.
_ALONE = re.compile(
    rf"^[ \t>]{{0,16}}[-*•]?[ \t]*[<\"'\[]{{0,2}}(?:mailto:)?({_A})[>\"'\]]{{0,2}}[ \t]*[.,;]?"
    rf"(?:[ \t]*[<(\[](?:mailto:)?{_A}[>)\]])?[ \t]*"
    r"(?:\((?:expanded|generated|reason|alias|ultimately)[^()]{0,300}\))?[ \t]*$"
)
#: The address, then the reason: `user@example.com (user not found)`, `<user@example.com>... User unknown`.
_REASON = re.compile(
    rf"^[ \t]{{0,12}}[-*•]?[ \t]*[<\"']{{0,2}}({_A})[>\"']{{0,2}}"
    r"[ \t]*(?:\.\.\.|[-–,;(\[:]|[ \t](?=[A-Za-z0-9\"]))(.*)$"
)
_RULER = re.compile(r"^\s*[-=_*#~]{4,}")

#: Lines of one reason. Replies have a handful; a page after an address is something else.
MAX_REASON_LINES = 25


def address_of(line: str) -> tuple[str, str] | None:
    """(address, rest of the line) where a line is about an address, else None."""
    if "@" not in line:
        return None
    found = _ALONE.match(line)
    if found:
        return sent_to(line, tidy(found[1])), ""
    found = _COLON.match(line)
    if found:
        return sent_to(found[2] or "", tidy(found[1])), found[3].strip()
    found = _REASON.match(line)
    return (tidy(found[1]), found[2].strip()) if found else None


def sent_to(remark: str, address: str) -> str:
    """The address that we sent to: that of `(expanded from <a>)`, `(ultimately generated from a)`, else the address."""
    original = _SENT_TO.search(remark) if " from" in remark else None
    return tidy(original[1]) if original else address


def address_rows(lines: list[str], *, blank_ends: bool = True) -> list[Row]:
    """A row for each line that begins with an address; the lines after it are its diagnostic.

    `blank_ends`: a blank line ends a reason that has begun. Addresses that stand together share what follows.
    """
    rows: list[Row] = []
    waiting: list[Row] = []
    reason: list[str] = []

    def close() -> None:
        text = " ".join(reason).strip()
        for row in waiting:
            row.diagnostic = " ".join((row.diagnostic, text)).strip()
        waiting.clear()
        reason.clear()

    for line in lines:
        if len(rows) >= MAX_ROWS:
            break
        named = address_of(line) if not (reason and line[:1] in " \t" and line.lstrip()[:1] not in "<") else None
        if named:
            if reason or any(row.diagnostic for row in waiting):
                close()
            row = Row(named[0], named[1])
            rows.append(row)
            waiting.append(row)
            continue
        stripped = line.strip()
        if not stripped:
            if blank_ends and reason:
                close()
            continue
        if _RULER.match(line):
            close()
            continue
        if waiting and len(reason) < MAX_REASON_LINES:
            reason.append(stripped)
    close()
    return _once(rows)


def _once(rows: list[Row]) -> list[Row]:
    """One row an address, with all that is said of it: reports name it in their words and again in their details."""
    named: dict[str, Row] = {}
    for row in rows:
        first = named.setdefault(row.recipient.lower(), row)
        if first is not row:
            first.diagnostic = f"{first.diagnostic} {row.diagnostic}".strip()
    return list(named.values())


def after(text: str, *phrases: str) -> str:
    """The text behind the first of these phrases that occurs (in lower case), "" if none does."""
    lowered = text.lower()
    for phrase in phrases:
        at = lowered.find(phrase)
        if at >= 0:
            return text[at + len(phrase) :]
    return ""
