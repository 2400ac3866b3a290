"""What a blocklist lists, in the reply that names it: an IP address, or a domain for the lists of domains."""

from __future__ import annotations

import re

#: Lists of domains and URLs; all others list addresses.
_OF_DOMAINS = frozenset(("spamhaus_dbl", "spamhaus_zrd", "uribl", "surbl"))
_IP = re.compile(
    r"(?<![\d.])((?:25[0-5]|2[0-4]\d|1?\d?\d)(?:\.(?:25[0-5]|2[0-4]\d|1?\d?\d)){3})(?![\d.]*\d)"
    r"|(?<![\w:])([0-9a-f]{1,4}(?::[0-9a-f]{0,4}){3,7})(?![\w:])"
)
#: Before an address that is the receiving server's own, as the reporter writes it: "host mx.example [192.0.2.1] said".
_RECEIVER = re.compile(r"(?<!client )(?<!from )\b(?:host|connect to|connected to|server)[ :]{1,2}[\w.-]{1,100} ?[\[(]$")
_NAME = r"((?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9])?\.){1,6}[a-z]{2,24})"
_DOMAINS = (
    re.compile(rf"(?:query/domain/|lookup/|[?&](?:domain|d|host|h|url|q|query|lookup|target)=(?:https?://)?){_NAME}"),
    re.compile(
        rf"\b(?:domain|url|uri|link|website|hostname|helo|sender|address|urls|domains|host)(?: name| host| domain)?"
        rf"(?: \(?(?:is|was|from|of|in|containing)\)?)?[ :=]{{1,3}}[\"'<\[(]{{0,2}}(?:https?://)?(?:[\w.+-]{{1,64}}@)?{_NAME}"
    ),
    re.compile(rf"[\"'<\[(](?:https?://)?(?:[\w.+-]{{1,64}}@)?{_NAME}[\"'>\])]"),
)
_LISTS = re.compile(r"spamhaus|surbl|uribl|invaluement|dnsbl|\brbl\b|barracuda|spamcop|mxtoolbox|multirbl")
_MAX_TEXT = 2000


def listed(detail: str, text: str) -> str:
    """A blocklist's id with what it lists, where the reply tells: `spamhaus_zen:192.0.2.1`, `uribl:shop.example`."""
    text = text[:_MAX_TEXT].lower()
    found = _domain(text) if detail in _OF_DOMAINS else ""
    found = found or _address(text)
    return f"{detail}:{found}".lstrip(":") if found else detail


def _address(text: str) -> str:
    for match in _IP.finditer(text):
        start = match.start()
        if not _RECEIVER.search(text[max(0, start - 130) : start]):
            return match[1] or match[2]
    return ""


def _domain(text: str) -> str:
    for pattern in _DOMAINS:
        for match in pattern.finditer(text):
            if not _LISTS.search(match[1]):
                return match[1]
    return ""
