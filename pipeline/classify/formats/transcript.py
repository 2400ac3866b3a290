"""Postfix's note to the postmaster about a session (notify_classes): `In:  RCPT TO:<a>`, `Out: 451 …`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mailecho.pipeline.classify.row import MAX_ROWS, Row
from mailecho.pipeline.message.addresses import ADDRESS, tidy

if TYPE_CHECKING:
    from mailecho.pipeline.classify.letter import Letter

NAME = "transcript"
MARKS = (r"\n\s?out:\s+220[ -]",)

_LINE = re.compile(
    rf"(?im)^[ \t]*(?:In:[ \t]+(RCPT[ ]TO:[ ]?<({ADDRESS.pattern})>|[A-Z]{{4}})|Out:[ \t]+([245]\d\d)([ -].*))"
)


def read(letter: Letter) -> list[Row]:
    """Rows of the recipients that were refused, or of all that were taken where the message was refused later."""
    taken: list[Row] = []
    refused: list[Row] = []
    asked: Row | None = None
    for found in _LINE.finditer(letter.text):
        if found[1]:
            asked = Row(tidy(found[2])) if found[2] else None
        elif found[3][0] == "2" and asked is not None:
            taken.append(asked)
            asked = None
        elif found[3][0] in "45":
            said = found[3] + found[4].rstrip()
            for row in [asked] if asked is not None else taken:
                row.diagnostic = row.diagnostic or said
                if row not in refused and len(refused) < MAX_ROWS:
                    refused.append(row)
            asked = None
    return refused
