"""Delivery status notifications: RFC 3464, and RFC 6533 for internationalised addresses.

Reads the machine part, also where its type is wrong, its blank lines are missing or it stands in plain text.
"""

from __future__ import annotations

import re

from mailecho.pipeline.classify.codes import status_of
from mailecho.pipeline.classify.row import MAX_ROWS, Report, Row
from mailecho.pipeline.message.addresses import field_address
from mailecho.pipeline.message.headers import decoded, printable
from mailecho.pipeline.message.scan import Part

STATUS_TYPES = frozenset(("message/delivery-status", "message/global-delivery-status"))

_FIRST_RECIPIENT_FIELD = ("final-recipient", "original-recipient", "action", "status", "diagnostic-code")
_ACTIONS = ("failed", "delayed", "delivered", "relayed", "expanded")
#: Words that reporters write in place of RFC 3464's.
_ACTION_WORDS = {"failure": "failed", "fail": "failed", "error": "failed", "deferred": "delayed", "delay": "delayed"}
_HEX = re.compile(r"\\x\{([0-9A-Fa-f]{1,6})\}")
#: xtext (RFC 3461 4) escapes only these; another +HH is part of an address with a tag.
_XTEXT = re.compile(r"\+(2B|3D|20|22|28|29|2C|3A|3B|3C|3E|40|5B|5C|5D|[01][0-9A-F]|7F|[89A-F][0-9A-F])")
_LOOKS_LIKE = re.compile(r"(?im)^[ \t>]{0,3}(?:final|original)-recipient[ \t]*:")


def is_status(text: str) -> bool:
    """Whether text holds the recipient fields of a delivery status, whatever its part's type says."""
    found = _LOOKS_LIKE.search(text)
    return bool(found) and bool(re.search(r"(?im)^[ \t>]{0,3}(?:action|status|diagnostic-code)[ \t]*:", text))


def unquoted(text: str) -> str:
    """A delivery status that a person forwarded as a quotation, without its ">"."""
    found = _LOOKS_LIKE.search(text)
    if found is None or ">" not in found[0]:
        return text
    return "\n".join(re.sub(r"^[> ]{1,6}", "", line) for line in text.split("\n"))


def read_status(part: Part) -> Report | None:
    """The report of a delivery-status part, None where it names no recipient and no action."""
    return read_fields(part.text())


def read_fields(text: str) -> Report | None:
    """The report in delivery-status text. See read_status."""
    groups = _groups(text)
    if not groups:
        return None
    message: dict[str, str] = {}
    rows: list[Row] = []
    for group in groups[:MAX_ROWS]:
        if any(name in group for name in ("final-recipient", "original-recipient", "action")):
            row = _row(group)
            if row is not None:
                rows.append(row)
        for name, value in group.items():
            message.setdefault(name, value)
    if not rows:
        return None
    return Report(
        rows,
        reporter=_typed(message.get("reporting-mta", "")),
        envelope_id=xtext(message.get("original-envelope-id", "")),
        arrival=message.get("arrival-date", ""),
        mail_from=field_address(message.get("x-postfix-sender", "")),
        # no field of RFC 3464; some gateways write it where they return nothing
        message_id=message.get("x-original-message-id", message.get("original-message-id", "")).strip("<> "),
    )


def _groups(text: str) -> list[dict[str, str]]:
    """Groups of fields, by blank lines, or by a repeated recipient field where those are missing."""
    groups: list[dict[str, str]] = []
    group: dict[str, str] = {}
    last = ""
    for line in text.split("\n", 20_000)[:20_000]:
        if not line.strip():
            if group:
                groups.append(group)
                group = {}
            last = ""
            continue
        if line[0] in " \t" and last:
            group[last] += "\n" + line.strip()
            continue
        raw_name, colon, value = line.partition(":")
        name = raw_name.strip().lower()
        if not colon or not name.replace("-", "").isalnum():
            if last == "diagnostic-code":  # a reply that was not folded
                group[last] += "\n" + line.strip()
            continue
        if name in group and name in _FIRST_RECIPIENT_FIELD and "final-recipient" in group:
            groups.append(group)
            group = {}
        if name not in group:
            group[name] = value.strip()
            last = name
        else:
            last = ""
    if group:
        groups.append(group)
    return groups


def _row(group: dict[str, str]) -> Row | None:
    original = recipient_of(group.get("original-recipient", ""))
    final = recipient_of(group.get("final-recipient", "")) or recipient_of(group.get("x-actual-recipient", ""))
    word = group.get("action", "").split("(")[0].strip().lower().split(" ")[0].rstrip(".;,")
    action = word if word in _ACTIONS else _ACTION_WORDS.get(word, "")
    status = status_of(group.get("status", ""))
    if not (original or final or action or status):
        return None
    diagnostic = group.get("diagnostic-code", "")
    localized = group.get("localized-diagnostic", "")
    return Row(
        recipient=original or final,
        diagnostic=clean_diagnostic(diagnostic),
        status=status,
        action=action,
        remote_host=_typed(group.get("remote-mta", "")),
        aside=" ".join(v for v in (_remark(group.get("status", "")), decoded(localized), _other_words(group)) if v),
        last_attempt=group.get("last-attempt-date", ""),
        found="Original-Recipient" if original else "Final-Recipient" if final else "",
    )


def _remark(status: str) -> str:
    """What some reporters add to the code: `5.1.1 (bad destination mailbox address)`."""
    return status if len(status.split()) > 1 else ""


def _other_words(group: dict[str, str]) -> str:
    """Fields in which reporters say more than the standard's fields hold."""
    return " ".join(
        group[name] for name in ("x-supplementary-info", "x-display-name", "x-powermta-bouncecategory") if name in group
    )


def recipient_of(value: str) -> str:
    """The address of `rfc822; user@example.com`, with its escapes decoded; "" where there is none."""
    if not value:
        return ""
    kind, semicolon, rest = value.partition(";")
    if semicolon and "@" not in kind:
        value = rest.strip()
        if "\\x{" in value:
            value = _HEX.sub(lambda m: _character(m[1]), value)
        if "+" in value:
            value = xtext(value)
    return decoded_address(field_address(value))


def decoded_address(address: str) -> str:
    """An address that some reporters write as an encoded word."""
    return decoded(address) if "=?" in address and "?=" in address else printable(address)


def _character(code: str) -> str:
    number = int(code, 16)
    return chr(number) if number < 0xD800 or 0xE000 <= number < 0x110000 else ""


def xtext(value: str) -> str:
    """xtext decoded (RFC 3461 4)."""
    if "+" not in value:
        return value
    data = _XTEXT.sub(lambda m: chr(int(m[1], 16)), value)
    if data == value:
        return value
    try:
        return data.encode("latin-1").decode("utf-8")
    except (UnicodeEncodeError, UnicodeDecodeError):
        return data


def _typed(value: str) -> str:
    """The name in `dns; mx.example.com (192.0.2.1)`."""
    kind, semicolon, rest = value.partition(";")
    name = (rest if semicolon else kind).strip()
    return name.split(" ")[0].split("\t")[0].strip("()[]<>") if name else ""


#: Cisco (IronPort) appliances quote the remote reply behind words of their own:
#: `5.1.0 - Unknown address error 550-'…'`.
_CISCO = re.compile(r"^\s*[245]\.\d\.\d - [A-Za-z ]{3,60}? ([245]\d\d)-'(.{3,})'", re.S)


def clean_diagnostic(value: str) -> str:
    """A Diagnostic-Code without its type and with encoded words read."""
    kind, semicolon, rest = value.partition(";")
    if semicolon and len(kind) < 20 and " " not in kind.strip() and kind.strip().lower() != "x-unix":
        value = rest.strip()
    if " - " in value and (quoted := _CISCO.match(value)):
        value = f"{quoted[1]} {quoted[2]}"
    return decoded(value)
