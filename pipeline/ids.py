"""Deterministic ids: the same fact has the same id, however often and wherever it is read.

An id is 128 bits, written as UUID text: 48 bits of the fact's own time (epoch milliseconds, 0
where it has none), then 80 bits of SHA-256 over length-prefixed fields with a type tag. The time
in front makes ids of one day neighbours, in the dedupe store and in ClickHouse. No arrival time
and no randomness goes in (domain-reference 5).
"""

from __future__ import annotations

import hashlib
import re

HOUR_MS = 3_600_000
_MAX_MS = (1 << 48) - 1

#: Fields that carriers add or change on the way, so two copies of one message differ in them.
_TRANSPORT_HEADER = re.compile(
    rb"(?:received|delivered-to|x-original-to|return-path|arc-[a-z-]+|dkim-signature|authentication-results"
    rb"|x-received|x-google-smtp-source)[ \t]*:",
    re.IGNORECASE,
)
_HEADER_END = re.compile(rb"\r?\n\r?\n|\r\r")
_LINE = re.compile(rb"[^\r\n]*(?:\r\n|\n|\r|$)")


_LENGTHS = tuple(length.to_bytes(4, "big") for length in range(256))


def _digest(tag: str, fields: tuple[str, ...]) -> bytes:
    try:
        encoded = [field.encode() for field in (tag, *fields)]
    except UnicodeEncodeError:
        encoded = [field.encode("utf-8", "surrogatepass") for field in (tag, *fields)]
    try:
        return hashlib.sha256(b"".join([_LENGTHS[len(data)] + data for data in encoded])).digest()
    except IndexError:
        return hashlib.sha256(b"".join([len(data).to_bytes(4, "big") + data for data in encoded])).digest()


def _uuid(raw: bytes) -> str:
    text = raw.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def event_id(when_ms: int, tag: str, *fields: str) -> str:
    """The id of a fact of kind `tag` at `when_ms` (clamped to 48 bits) with the given fields."""
    when = min(max(when_ms, 0), _MAX_MS)
    return _uuid(when.to_bytes(6, "big") + _digest(tag, fields)[:10])


def plain_id(tag: str, *fields: str) -> str:
    """An id without a time, for outcomes: they join reports of different times."""
    return _uuid(_digest(tag, fields)[:16])


def id_ms(raw: bytes) -> int:
    """The time inside an event id given as 16 bytes."""
    return int.from_bytes(raw[:6], "big")


def place(event_id: str) -> str:
    """A key by which an event without recipient is placed: the hash inside its id."""
    return event_id[19:23] + event_id[24:]


def raw_id(message: bytes) -> str:
    """The identity of a mail, hex: SHA-256 without the fields that carriers add on the way.

    So the same report in two mailboxes is one. Line ends count as one kind.
    """
    h = hashlib.sha256()
    end = _HEADER_END.search(message, 0, 1 << 20)  # a header section over 1 MiB is no mail
    head, body = (message[: end.start()], message[end.start() :]) if end else (message, b"")
    skipping = False
    for match in _LINE.finditer(head):
        line = match.group()
        if not line:
            break
        if line[:1] in b" \t":
            if skipping:
                continue
        else:
            skipping = _TRANSPORT_HEADER.match(line) is not None
            if skipping:
                continue
        h.update(line.rstrip(b"\r\n") + b"\n")
    h.update(body.replace(b"\r\n", b"\n").replace(b"\r", b"\n"))
    return h.hexdigest()
