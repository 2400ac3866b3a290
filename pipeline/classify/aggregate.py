"""Reports about many messages at once: DMARC aggregates (RFC 7489, RFC 9990) and TLS-RPT (RFC 8460).

They are recognised here, one event a report; what they hold is read elsewhere.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mailecho.pipeline.message.headers import Headers

if TYPE_CHECKING:
    from mailecho.pipeline.classify.letter import Letter

DMARC, TLS = "dmarc-aggregate", "tls-rpt"

#: `receiver!sender-domain!begin!end[!id].xml.gz` (RFC 9990, RFC 8460 5.1), and the domain is never a quoted one.
_FILE = re.compile(r"[^\s\"!;=']{1,255}![^\s\"!;]{1,255}!\d{1,20}!\d{1,20}[^\s\";]{0,255}")
_SUBJECT = re.compile(r"report domain: *\S+ +submitter: *\S+")
_DATA = (
    "application/gzip",
    "application/x-gzip",
    "application/zip",
    "application/x-zip",
    "application/xml",
    "text/xml",
)


def report_type(letter: Letter) -> str:
    """DMARC or TLS, "" for any other message."""
    headers = letter.headers
    subject = _SUBJECT.search(letter.subject) is not None
    for part in letter.mail.parts:
        kind = part.type
        if kind.startswith("application/tlsrpt"):
            return TLS
        if not kind.startswith(("application/", "text/xml")):
            continue
        found = _FILE.search(_names(part.headers))
        name = found[0].lower().rstrip("'?=") if found else ""
        if name.endswith((".json", ".json.gz", ".json.zip")):
            return TLS
        if name.endswith((".xml", ".gz", ".zip")) or (subject and kind.startswith(_DATA)):
            return TLS if "tls-report-domain" in headers else DMARC
        if kind == "application/xml" and "<report_metadata>" in part.text()[:5_000]:
            return DMARC
    if "tls-report-domain" in headers or 'report-type="tlsrpt"' in headers.first("content-type").lower():
        return TLS
    return ""


def _names(headers: Headers) -> str:
    return f"{headers.first('content-type')[:2000]}\n{headers.first('content-disposition')[:2000]}"
