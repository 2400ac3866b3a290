"""X-ARF: abuse reports as JSON (version 4, attached or as the body) and as lines of text (0.1 and 0.2).

Both spellings of version 4 are read: `ReporterInfo`/`Report` in capitals, and the later snake_case. Only reports
about mail are complaints: a report of a login attack or of a page is not about a recipient.
https://github.com/xarf/xarf-spec
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import TYPE_CHECKING, Any

from mailecho.pipeline.classify.arf import Told
from mailecho.pipeline.message.headers import Headers, printable
from mailecho.pipeline.message.scan import split_head

if TYPE_CHECKING:
    from mailecho.pipeline.classify.letter import Letter

#: What is parsed of one report; its evidence is one mail.
MAX_JSON = 512 * 1024

_JSON = ("application/json", "application/xarf", "application/x-xarf")
_IS_V4 = re.compile(r'"(?:xarf_?version|reporterinfo|xarf)"\s*:', re.IGNORECASE)
_IS_LINES = re.compile(r"(?im)^report-type[ \t]*:.*(?:\n.*){0,40}?\n?^(?:schema-url|source-type)[ \t]*:")
#: Types about mail, and what they are in ARF.
_TYPES = {
    "spam": "abuse",
    "bulk_messaging": "abuse",
    "bulk": "abuse",
    "fbl": "abuse",
    "phishing": "fraud",
    "scam": "fraud",
}


def read(letter: Letter) -> Told | None:
    """The complaint in an X-ARF report about mail, None where there is none."""
    marked = _marked(letter)
    in_words = marked or letter.text[:20].lstrip().startswith("{")
    for part in letter.mail.parts:
        if part.returned or not (part.type.startswith(_JSON) or (in_words and part.type.startswith("text/"))):
            continue
        text = part.text()[:MAX_JSON]
        if _IS_V4.search(text):
            told = _json(text)
            if told is not None:
                return told
        if marked and _IS_LINES.search(text):
            told = _lines(Headers(text.strip("-\n ")))
            if told is not None:
                return told
    return None


def _marked(letter: Letter) -> bool:
    return any(name in letter.headers for name in ("x-arf", "x-xarf", "xarf"))


def _json(text: str) -> Told | None:
    start = text.find("{")
    try:
        report = json.JSONDecoder(strict=False).raw_decode(text, max(start, 0))[0]
        if not isinstance(report, dict):
            return None
        facts = _flat(report)
        if isinstance(inner := facts.get("report"), dict):
            facts |= _flat(inner)
        if isinstance(inner := facts.get("source"), dict):
            facts |= _flat(inner)
        name = _TYPES.get(str(facts.get("type") or facts.get("reporttype") or "").lower().replace("-", "_"))
        if name is None or str(facts.get("category", "messaging")).lower() not in ("messaging", "abuse", "content"):
            return None
        fields = {
            "Source-IP": facts.get("sourceidentifier") or facts.get("sourceip") or facts.get("ip"),
            "Original-Mail-From": facts.get("smtpfrom") or facts.get("smtpmailfromaddress"),
            "Original-Rcpt-To": facts.get("smtpto") or facts.get("smtprcpttoaddress"),
            "Arrival-Date": facts.get("timestamp") or facts.get("date"),
            "Incidents": facts.get("samplecount"),
            "CFBL-Feedback-ID": facts.get("cfblfeedbackid"),
        }
        block = "\n".join(f"{key}: {_line(value)}" for key, value in fields.items() if value)
        return Told(Headers(block), name, _evidence(facts.get("evidence") or facts.get("samples")))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def _flat(found: dict[str, Any]) -> dict[str, Any]:
    """Names without case and underscores, as both spellings have them in common."""
    return {str(key).lower().replace("_", "").replace("-", ""): value for key, value in found.items()}


def _line(value: object) -> str:
    return printable(" ".join(str(value).split()))[:500]


def _evidence(samples: Any) -> Headers:
    """The headers of the message that is complained about, from the first sample that holds one."""
    for sample in samples[:10] if isinstance(samples, list) else ():
        facts = _flat(sample)
        payload = str(facts.get("payload", ""))
        if not str(facts.get("contenttype", "message/rfc822")).lower().startswith(("message/", "text/")):
            continue
        if facts.get("base64encoded", ":" not in payload[:80]):
            try:
                payload = base64.b64decode(payload).decode("utf-8", "surrogateescape")
            except (binascii.Error, ValueError):
                continue
        head, _ = split_head(payload.replace("\r\n", "\n"))
        if head:
            return head
    return Headers()


def _lines(fields: Headers) -> Told | None:
    name = _TYPES.get(fields.first("report-type").lower().replace("-", "_"))
    if name is None:
        return None
    block = {
        "Source-IP": fields.first("source"),
        "Arrival-Date": fields.first("date"),
        "Original-Rcpt-To": fields.first("removal-recipient"),
        "Incidents": fields.first("occurences") or fields.first("occurrences"),
    }
    return Told(Headers("\n".join(f"{key}: {_line(value)}" for key, value in block.items() if value)), name)
