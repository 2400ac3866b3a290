"""Reports that name their parts: `Recipient: …`, `Reason: …` (gateways, MailMarshal, DragonFly, SMS carriers)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mailecho.pipeline.classify.row import Row
from mailecho.pipeline.message.addresses import ADDRESS, tidy

if TYPE_CHECKING:
    from mailecho.pipeline.classify.letter import Letter

NAME = "labelled"
_WHO = (
    r"(?:recipients?|addressee|rcpt to|envelope.to|failed address|undeliverable address|address|e-?mail address|to"
    r"|sent to|user|mailbox|delivery failed)"
)
_WHY = r"(?:reason|error|error description|problem|diagnostic|details|response|explanation|server response)"
MARKS = (
    r"\n[ \t>*]{0,12}(?:intended |failed |final |original |message )?(?:recipients?|addressee|rcpt to|envelope.to"
    r"|failed address|delivery failed)(?:\(s\))?(?: address)?\s{0,3}[:=]\s{0,12}\S",
    r"the\s+following\s+recipients\s+were\s+affected",
    rf"\n[ \t]{{0,8}}(?:failure )?{_WHY}\s{{0,3}}[:=]",
)

_RECIPIENT = re.compile(
    rf"(?im)^[ \t>*]{{0,12}}(?:intended |failed |final |original |message |the )?{_WHO}(?:\(s\))?(?: address)?"
    rf"[ \t]{{0,3}}[:=][ \t]{{0,12}}\n?[ \t]{{0,12}}(?:rfc822;[ \t]*)?[<\"'\[]{{0,2}}(?:smtp:)?({ADDRESS.pattern})"
)
_REASON = re.compile(
    rf"(?ims)^[ \t>*]{{0,12}}(?:failure |reject |bounce |the )?{_WHY}[^\n:=]{{0,30}}[:=][ \t]{{0,12}}"
    r"(.{3,1500}?)(?=\n[ \t]*\n[^ \t]|\Z)"
)
_AFFECTED = re.compile(rf"(?is)following\s+recipients\s+were\s+affected:?\s*((?:\s*<?{ADDRESS.pattern}>?)+)")


def read(letter: Letter) -> list[Row]:
    """Rows of labelled recipients, all with the report's one reason."""
    text = letter.text
    reason = _REASON.search(text)
    told = " ".join(reason[1].split()) if reason else ""
    affected = _AFFECTED.search(text)
    if affected:
        found = [tidy(a) for a in ADDRESS.findall(affected[1])]
    else:
        found = [tidy(m[1]) for m in _RECIPIENT.finditer(text)]
    own = letter.headers.first("to").lower()
    rows = {a.lower(): a for a in found if a.lower() not in own}
    return [Row(a, told, aside=text[:3000]) for a in list(rows.values())[:50]]
