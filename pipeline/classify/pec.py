"""Receipts of Italian certified mail (PEC): accepted, taken over, delivered, failed, or held for a virus.

Technical rules of the decree of 2 November 2005, annex, sections 6 and 7: a header `X-Ricevuta` says which receipt it
is, and an attachment `daticert.xml` holds its data.
"""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING

from mailecho.pipeline.classify.row import MAX_ROWS, Report, Row
from mailecho.pipeline.message.addresses import find_addresses

if TYPE_CHECKING:
    from mailecho.pipeline.classify.letter import Letter

#: What each receipt says in the words of RFC 3464. The first two warnings of a failure come after 12 and 24 hours.
ACTIONS = {
    "accettazione": "relayed",
    "presa-in-carico": "relayed",
    "avvenuta-consegna": "delivered",
    "preavviso-errore-consegna": "delayed",
    "errore-consegna": "failed",
    "non-accettazione": "failed",
    "rilevazione-virus": "failed",
}
#: The attribute `errore` of a failure as a status (RFC 3463).
_STATUS = {"no-dest": "5.1.1", "no-dominio": "5.1.2", "virus": "5.7.0"}
_MAX_DATA = 200_000
_ERROR = re.compile(r"<postacert\b[^<>]{0,200}\berrore\s*=\s*[\"']([a-z-]{1,40})")
_TO = re.compile(r"<consegna>\s*([^<>]{3,320}?)\s*</consegna>")
_ALL = re.compile(r"<destinatari\b[^<>]{0,100}>\s*([^<>]{3,320}?)\s*</destinatari>")
_SAID = re.compile(r"<errore-esteso>\s*([^<>]{1,4000}?)\s*</errore-esteso>")
_PROVIDER = re.compile(r"<gestore-emittente>\s*([^<>]{1,200}?)\s*</gestore-emittente>")


def read(letter: Letter) -> Report | None:
    """The report of a receipt, None for any other mail. Raises nothing."""
    action = ACTIONS.get(letter.headers.first("x-ricevuta").strip().lower())
    if action is None:
        return None
    data = ""
    for part in letter.mail.parts:
        if "daticert.xml" in part.headers.first("content-type").lower() + part.headers.first("content-disposition"):
            data = part.text()[:_MAX_DATA]
            break
    error = _ERROR.search(data)
    said = _SAID.search(data)
    text = html.unescape(said[1]) if said else " ".join(letter.text.split())[:2000]
    people = [html.unescape(to) for to in (_TO.findall(data) or _ALL.findall(data))] or _named(letter, action)
    rows = [
        Row(
            recipient=person,
            diagnostic=text if action in ("failed", "delayed") else "",
            status=_STATUS.get(error[1], "") if error and action == "failed" else "",
            action=action,
            found="daticert.xml" if data else "",
        )
        for person in people[:MAX_ROWS]
    ]
    provider = _PROVIDER.search(data)
    about = letter.headers.first("x-riferimento-message-id").strip("<> ")
    return Report(rows, provider[1] if provider else "", message_id=about) if rows else None


def _named(letter: Letter, action: str) -> list[str]:
    """Whom the words name after the sender, who stands first."""
    text = letter.text[:4000]
    _, mark, rest = text.partition("destinat")  # "destinato all'utente", "indirizzato a"
    if not mark:
        _, mark, rest = text.partition("indirizzat")
    return find_addresses(rest, MAX_ROWS) if mark else []
