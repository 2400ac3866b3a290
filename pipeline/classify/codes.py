"""Reply codes and enhanced status codes in text (RFC 5321 4.2, RFC 3463)."""

from __future__ import annotations

import re

# Each pattern begins with its first digit and looks behind that: a search then skips to the digits, where one that
# begins with a look-behind or an alternative tries every character.
# Subjects run from 0 to 7 (RFC 3463): a version number such as 4.92.3 is no code.
_ENHANCED = r"[245]\.[0-7]\.\d{1,3}"
_BOTH = re.compile(rf"([245](?<![\d.][245])\d\d)[\s-]{{1,3}}\(?#?({_ENHANCED})(?![\d]|\.\d)")
_BARE_ENHANCED = re.compile(r"([245](?<![\w./-][245])\.[0-7]\.\d{1,3})(?![\w]|\.\d|-\d)")
_REPLY = re.compile(
    r"([45](?<![^\s:;'\"(\[<=>,|-][45])[0-5]\d)"
    r"(?=$|[\s-][^\d\s]|[\s]-|- |[,;:.)\]'\"]|[ ]{1,3}[45]\.\d)"
)
_STATUS = re.compile(r"(?<![\d.])([245]\.\d{1,3}\.\d{1,3})(?!\.?\d)")
_SHORT_STATUS = re.compile(r"^\s*([245])\.(\d{1,3})\s*$")


def status_of(value: str) -> str:
    """The code of a Status field: `5.1.1 (bad address)` -> "5.1.1", "" without one."""
    found = _STATUS.search(value)
    if found:
        return found[1]
    short = _SHORT_STATUS.match(value)
    return f"{short[1]}.{short[2]}.0" if short else ""


def codes_in(text: str) -> tuple[int, str]:
    """(reply code, enhanced code) of a reply: the first pair that stands together, else each by itself. 0 and ""."""
    both = _BOTH.search(text)
    if both:
        return int(both[1]), both[2]
    code = 0
    found = _REPLY.search(text)
    if found:
        code = int(found[1])
    for match in _BARE_ENHANCED.finditer(text):
        if not code or match[1][0] == str(code)[0]:
            return code, match[1]
    return code, ""


def joined(text: str) -> str:
    """A multi-line reply as one line: the code that begins each further line is dropped (RFC 5321 4.2.1)."""
    text = " ".join(text.split())
    if len(text) > 5 and "-" in text:
        code = _multiline_code(text)
        if code:
            at = text.index(code) + len(code)
            rest = re.sub(rf" {code}[- ] ?(?:[245]\.\d{{1,3}}\.\d{{1,3}} ?)?(?=\S)", " ", text[at:])
            text = text[:at] + rest
    return text


_MULTILINE = re.compile(r"([245](?<![^\s:;>][245])\d\d)-(?:(?!\d)|[245]\.\d)")


def _multiline_code(text: str) -> str:
    found = _MULTILINE.search(text)
    if not found:
        return ""
    return found[1] if text.count(found[1]) > 1 else ""
