"""Diagnostics without their variable parts, for grouping; and with addresses masked, for storing.

A template is what stays the same between two replies of one kind: `550 5.1.1 <ADDR>: user unknown in ID`.
"""

from __future__ import annotations

import hashlib
import re

from mailecho.pipeline.message.addresses import ADDRESS

#: What a template is made of. The rest of a long diagnostic is a help text or a quoted page.
MAX_TEMPLATE = 500

_PUNCTUATION = "<>()[]{},;:.'\"|=!?*"
_CODE = re.compile(r"#?(?:[245]\d\d|[245]\.\d{1,3}\.\d{1,3}|[245]\d\d-[245]\.\d{1,3}\.\d{1,3}|[245]\d\d-.{0,3})$")
_HOST = re.compile(r"(?:[a-z0-9_-]{1,63}\.){1,8}[a-z][a-z0-9-]{1,61}$")
_IP = re.compile(r"(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){3,7})(?:[:/]\d{1,5})?$")
_DIGITS = re.compile(r"\d+")
#: A token of letters and digits this long is an id; shorter ones (a1, ipv6, s3140) may be words.
_ID_LENGTH = 7


def template_of(diagnostic: str) -> str:
    """The template of a diagnostic: lower case, one line, variable parts as ADDR, URL, IP, HOST, ID, N.

    Reply codes and status codes stay: they are what a reply is about.
    """
    tokens = diagnostic[: 4 * MAX_TEMPLATE].lower().split()
    return " ".join([t if t.isalpha() or t[:-1].isalpha() else _token(t) for t in tokens])[:MAX_TEMPLATE]


def _token(token: str) -> str:
    bare = token.strip(_PUNCTUATION)
    if not bare or bare.isalpha():
        return token
    if "://" in bare:
        return token.replace(bare, "URL")
    if "@" in bare:
        return token.replace(bare, "ADDR")
    if bare.isdecimal() and len(bare) != 3:
        return token.replace(bare, "N")
    if bare[0] in "245#" and _CODE.match(bare):
        return token
    digits = _DIGITS.search(bare)
    if "." in bare or ":" in bare:
        if digits and _IP.match(bare):
            return token.replace(bare, "IP")
        if "." in bare and _HOST.match(bare):
            return token.replace(bare, "HOST")
    if not digits:
        return token
    if len(bare) >= _ID_LENGTH:
        return token.replace(bare, "ID")
    return token.replace(bare, _DIGITS.sub("N", bare))


_MASKED = re.compile(ADDRESS.pattern)


def template_hash(template: str) -> str:
    """16 hex digits that stand for a template; "" for an empty one."""
    return hashlib.sha256(template.encode("utf-8", "replace")).hexdigest()[:16] if template else ""


def mask_addresses(text: str) -> str:
    """Text with the local part of each address replaced by `***`. The domain stays: rates are by domain."""
    return _MASKED.sub(_mask, text) if "@" in text else text


def _mask(match: re.Match[str]) -> str:
    return "***" + match[0][match[0].rindex("@") :]
