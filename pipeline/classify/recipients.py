"""Whom a complaint is about: the ladder of domain-reference 2.1 as far as the report itself goes.

Tokens come before it and after it (trusted.py); this is what a report says in clear, and hashes that can be compared.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from mailecho.pipeline.finding import CAMPAIGN_ONLY, UNRESOLVED
from mailecho.pipeline.message.addresses import field_address, find_addresses
from mailecho.pipeline.message.headers import Headers

#: How sure each step is. What stands in the returned To may be a list's address.
CONFIDENCE = {
    "original_rcpt_to": 0.8,
    "removal_recipient": 0.8,
    "original_recipient_header": 0.8,
    "returned_header": 0.8,
    "received_for": 0.8,
    "sender": 0.8,
    "keyed_hash": 0.7,
    "returned_to": 0.6,
}

_WORDS = frozenset(
    (
        *("redacted", "redact", "removed", "hidden", "masked", "hashed", "obfuscated", "unknown", "undisclosed"),
        *("anonymous", "anonymized", "anonymised", "user-redacted", "undisclosed-recipients"),
    )
)
#: Runs of x, stars, dots and the like, alone or around a letter that was left standing.
_MASKED = re.compile(r"x+|[*#_.…•-]+|.{0,3}[*…•]{2,}.{0,3}|\[?redacted\b.*")
_HASH = re.compile(r"(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{16,128}")
_HASHED = re.compile(r"[0-9a-f]{32,64}")
#: What feeds hash an address with where they use no key of their own.
_ALGORITHMS = ("md5", "sha1", "sha256")


@dataclass(frozen=True, slots=True)
class Found:
    """A recipient, how it was found, and how sure that is. With a step of NOBODY the address is a placeholder or ""."""

    address: str
    step: str
    confidence: float = 0.5


def is_placeholder(address: str) -> bool:
    """Whether an address stands for one that was taken out: `redacted@`, `x@`, a hash as local part.

    A mailbox may really have such a name; a complaint is then left unresolved, which is the lesser harm.
    """
    local, _, domain = address.strip("<> ").lower().rpartition("@")
    if not local:
        return True
    domain = domain.rstrip(".")
    return (
        local in _WORDS
        or domain.partition(".")[0] in _WORDS
        or domain.endswith(".invalid")
        or _MASKED.fullmatch(local[:80]) is not None
        or _HASH.fullmatch(local) is not None
    )


def recipients(fields: Headers, returned: Headers) -> list[Found]:
    """The recipients of a complaint, one Found at least.

    `fields` are those of the feedback report, `returned` the headers of the message complained about.
    """
    written: list[str] = []
    for block, name, step in (
        (fields, "original-rcpt-to", "original_rcpt_to"),
        (fields, "removal-recipient", "removal_recipient"),
        (returned, "x-hmxmroriginalrecipient", "original_recipient_header"),
        (returned, "x-original-to", "returned_header"),
        (returned, "x-rcpt-to", "returned_header"),
    ):
        if found := _clear(block.all(name), written):
            return [Found(address, step, CONFIDENCE[step]) for address in (found if block is fields else found[:1])]
    to = _clear(returned.all("to"), written)
    hashes = _hashes(fields, written)
    for address in to if hashes else ():
        if _matches(address, hashes):
            return [Found(address, "keyed_hash", CONFIDENCE["keyed_hash"])]
    for value in reversed(returned.all("received")):  # the hop next to us is the last in the block
        _, mark, rest = value.partition(" for ")
        if mark and (found := _clear(find_addresses(rest, 1), written)):
            return [Found(found[0], "received_for", CONFIDENCE["received_for"])]
    if len(to) == 1:
        return [Found(to[0], "returned_to", CONFIDENCE["returned_to"])]
    _clear(fields.all("redacted-address"), written)
    step = CAMPAIGN_ONLY if returned.first("feedback-id") else UNRESOLVED
    return [Found(written[0] if written else "", step)]


def _clear(values: list[str], written: list[str]) -> list[str]:
    """The addresses of some fields, without placeholders, which go to `written`."""
    found: dict[str, None] = {}
    for value in values[:100]:
        addresses = find_addresses(value) if "," in value else [field_address(value)]
        for address in addresses:
            if address and is_placeholder(address):
                written.append(address)
            elif address:
                found.setdefault(address)
    return list(found)


def _hashes(fields: Headers, written: list[str]) -> set[str]:
    texts = [address.partition("@")[0] for address in written]
    texts += [*fields.all("original-rcpt-to")[:20], fields.first("redacted-address")]
    return {text for value in texts for text in _HASHED.findall(value.lower())[:5]}


def _matches(address: str, hashes: set[str]) -> bool:
    data = address.lower().encode("utf-8", "surrogatepass")
    return any(hashlib.new(name, data, usedforsecurity=False).hexdigest() in hashes for name in _ALGORITHMS)
