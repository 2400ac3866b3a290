"""Addresses in free text and in address fields."""

from __future__ import annotations

import re

from mailecho.pipeline.message import fallback

# Sets are written by what they leave out: ASCII's specials. Ranges up to the last code point would cost a regular
# expression that ignores case some 30 ms to compile, and dozens are made of this one.
_LOCAL = r"[^\x00-\x20\x22\x28\x29,:;<>@\x5b-\x5d\x7f]"
_DOMAIN_CHAR = r"[^\x00-/:-@\x5b-\x5e`{-\x7f]"
# The look-behind starts each attempt at the start of a run, and the run is bounded: linear time.
ADDRESS = re.compile(
    rf"(?<!{_LOCAL})(?:{_LOCAL}{{1,128}}|\"[^\"\s@]{{1,64}}\")@"
    rf"(?:(?:#|{_DOMAIN_CHAR})(?:[^\x00-\x2c/:-@\x5b-\x5e`{{-\x7f]{{0,253}}{_DOMAIN_CHAR})?|\[[0-9A-Fa-f:.]{{3,45}}\])"
)
_COMMENT = re.compile(r"\([^()]{0,200}\)")


def find_addresses(text: str, limit: int = 100) -> list[str]:
    """The addresses in a text, as written, each once, in order."""
    if "@" not in text:
        return []
    found: dict[str, None] = {}
    for match in ADDRESS.finditer(text):
        found.setdefault(tidy(match[0]))
        if len(found) >= limit:
            break
    return list(found)


def tidy(address: str) -> str:
    """An address without what free text puts around it."""
    address = address.strip().strip("<>,;:()").strip("'\"").removeprefix("mailto:")
    at = address.rfind("@")
    return address.partition("..")[0] if ".." in address[at:] and at < address.find("..", at) else address.rstrip(".")


#: SRS0=hash=time=domain=local@forwarder, SRS1=hash=forwarder==hash=time=domain=local@other; the first = may be + or -.
_SRS = re.compile(
    r"(?i)^SRS[01][=+-](?:[^=@]{1,64}=[^=@]{1,255}==)?[^=@]{1,64}=[^=@]{1,16}=([^=@]{3,255})=([^@]{1,128})@"
)
#: BATV (draft-levine-smtp-batv): prvs=1234abcdef=local@domain; some put the tag behind: prvs=local/1234abcdef@domain.
_BATV = re.compile(r"(?i)^prvs=(?:[0-9a-f]{10}=([^@]{1,128})|([^@=/]{1,128})/[0-9a-f]{10})(@.+)$")


def unwrapped(address: str) -> str:
    """The address inside a forwarder's SRS or a signed BATV form, else the address itself."""
    if address[:3].lower() == "srs":
        found = _SRS.match(address)
        return f"{found[2]}@{found[1]}" if found else address
    if address[:5].lower() == "prvs=":
        found = _BATV.match(address)
        return f"{found[1] or found[2]}{found[3]}" if found else address
    return address


def field_address(value: str) -> str:
    """The address of a field such as `rfc822; user@example.com` or `Name <user@example.com>`, "" if none.

    Source routes (`@a,@b:user@c`) give the mailbox at their end. What a pattern cannot read goes to
    flanker's grammar.
    """
    value = value.strip()
    if "@" not in value:
        return ""
    if "<" in value:
        inner = value[value.rfind("<") + 1 :].partition(">")[0].strip()
        if "@" in inner:
            value = inner
    if value.startswith("@") and ":" in value:
        value = value.rpartition(":")[2]
    if value.startswith('"') or "(" in value:
        parsed = fallback.parse_address(value)
        if parsed:
            return parsed
        value = _COMMENT.sub("", value).strip()
    found = ADDRESS.search(value)
    return tidy(found[0]) if found else ""
