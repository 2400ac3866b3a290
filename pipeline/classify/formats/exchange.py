"""Microsoft Exchange and Microsoft 365: non-delivery reports in words.

2003: a recipient, a date, a reason, `<host #5.1.1 …>`. 2007 and later: "Diagnostic information for administrators",
with the generating server, the recipient and `#550 5.1.1 RESOLVER.ADR.RecipNotFound; not found ##` or
`Remote Server returned '550 …'`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mailecho.pipeline.classify.formats.lines import address_rows, after
from mailecho.pipeline.classify.row import MAX_ROWS, Row
from mailecho.pipeline.message.addresses import ADDRESS, find_addresses, tidy

if TYPE_CHECKING:
    from mailecho.pipeline.classify.letter import Letter

NAME = "exchange"
MARKS = (
    r"did\s+not\s+reach\s+(?:some\s+or\s+all\s+of\s+)?the\s+(?:intended\s+|following\s+)?recipient",
    r"diagnostic\s+information\s+for\s+administrators",
    r"delivery\s+has\s+failed\s+to\s+these\s+recipients",
    r"(?:remote|mail)\s+server\s+returned",
    r"generating\s+server:",
    r"diagnoseinformationen\s+f.{1,2}r\s+administratoren|informations\s+de\s+diagnostic\s+pour\s+les\s+administrateurs",
    r"informaci.{1,2}n\s+de\s+diagn.{1,2}stico\s+para\s+administradores|informazioni\s+diagnostiche\s+per\s+gli\s+amministratori",
    r"informa..{1,2}es\s+de\s+diagn.{1,2}stico\s+para\s+administradores|diagnostische\s+gegevens\s+voor\s+beheerders",
    r"管理者向けの診断情報|供管理员使用的诊断信息|диагностические\s+сведения\s+для\s+администраторов",
)

_BEGIN = (
    "could not be reached:",
    "could not be delivered to:",
    "could not be delivered:",
    "were undeliverable:",
    "recipients or groups:",
    "recipients or distribution lists:",
)
_GENERATING = re.compile(
    r"(?im)(?:generating server|generierender server|serveur de g\S+|servidor de generaci\S+)\s*:\s*([a-z0-9.-]+)"
    # in any language: a label, and then a host and nothing else
    r"|^[^\n:：@]{3,60}[:：][ \t]*([a-z0-9-]{1,63}(?:\.[a-z0-9-]{1,63}){2,6})[ \t]*$"
)
_DATED = re.compile(
    rf"^\s{{1,12}}['\"]?(?:[^@\n]{{0,80}}?[<\[(])?({ADDRESS.pattern})[>\])'\"]{{0,3}}\s+(?:on|am|le|el|il|em)\s+\S+"
)
_RETURNED = re.compile(r"(?is)(?:remote |mail )?server returned:?\s*['\"‘“](.{5,1500}?)['\"’”]\s*(?:\n|$|\()")
_DIAGNOSTIC = re.compile(r"#?<?#?([^\n<>]{0,40}#?[245]\d\d[ -]?#?[245]\.\d{1,3}\.\d{1,3}.{0,600}?)##", re.S)


def read(letter: Letter) -> list[Row]:
    """Rows of an Exchange report."""
    text = letter.text
    for read_part in (_for_administrators, _dated):
        rows = read_part(text)
        if rows:
            break
    else:
        begin = after(text, *_BEGIN)
        rows = address_rows(begin.split("\n"), blank_ends=False) if begin else []
        failed = find_addresses(letter.headers.first("x-failed-recipients"))
        if not rows and failed:
            rows = [Row(address, text[:3000]) for address in failed]
    server = _GENERATING.search(text)
    for row in rows:
        row.aside = text[:3000]
        if server:
            row.remote_host = row.remote_host or server[1] or server[2]
    return rows


def _for_administrators(text: str) -> list[Row]:
    """Recipients below the generating server, each with the reply that follows it."""
    server = _GENERATING.search(text)
    if not server:
        return []
    rows = address_rows(text[server.end() :].split("\n"))
    for row in rows:
        said = row.diagnostic[:4000]
        returned = _RETURNED.search(said) or (_DIAGNOSTIC.search(said) if "##" in said else None)
        if returned:
            row.diagnostic = returned[1]
    return [row for row in rows if row.diagnostic]


def _dated(text: str) -> list[Row]:
    """Exchange 5.5 to 2003: `      user@example.com on 1/2/2003 4:05 PM`, then the reason, indented."""
    rows: list[Row] = []
    reason: list[str] = []
    for line in text.split("\n"):
        found = _DATED.match(line)
        if found and len(rows) < MAX_ROWS:
            if rows:
                rows[-1].diagnostic = " ".join(reason)
            reason = []
            rows.append(Row(tidy(found[1])))
        elif rows and line.strip() and len(reason) < 12:
            reason.append(line.strip())
    if rows:
        rows[-1].diagnostic = " ".join(reason)
    return rows
