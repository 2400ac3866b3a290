"""What all log sources share: the answer's types, and how a record is cut into entries.

A raw record of `feedback.raw.delivery` is one log line, one JSON object, one JSON array (a webhook
body), or a chunk of lines. A source reads a whole record, so that a format with state between its
lines has a place for it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import orjson

from mailecho.pipeline.finding import Finding, Unreadable
from mailecho.pipeline.identity import NotAnAddress, normalise
from mailecho.schemas.deadletter import Reason
from mailecho.schemas.topics import RAW_RECORD_BYTES

#: Worst case of one entry: a whole record.
MAX_ENTRY_BYTES = RAW_RECORD_BYTES

_ADDRESS = re.compile(r"[^\s\x00-\x1f\x7f<>\"@]+@[^\s\x00-\x1f\x7f<>\"@]+")


@dataclass(frozen=True, slots=True)
class Rejected:
    """An entry that cannot be read: it goes to the dead letters, the others of its record go on.

    `index` counts the entries of the record from 0 (blank lines do not count). `reason` is a value of
    `schemas.deadletter.Reason`, `detail` says in words what is wrong and names the field. `entry` is
    the entry as bytes that can be read again on their own.
    """

    index: int
    reason: str
    detail: str
    entry: bytes


@dataclass(slots=True)
class Context:
    """What a source is told of the record that it reads, and what it tells back.

    `received_at_ms` is the append time (epoch milliseconds). `utc_offset_minutes` is the zone of time
    stamps that name none. A reader sets `seen_ms` to the time of a line that is no event, so that
    the record's `not_feedback` event has a time.
    """

    source: str
    received_at_ms: int
    tenant: str = ""
    stream: str = ""
    utc_offset_minutes: int = 0
    seen_ms: int | None = None


#: Reads one record. Yields events and rejected entries, and nothing for a line that tells of no event.
Reader = Callable[[bytes, Context], Iterator[Finding | Rejected]]


def rejected(index: int, error: Unreadable, entry: bytes) -> Rejected:
    """The answer for an entry whose reader raised."""
    return Rejected(index, error.reason, str(error), entry)


def json_entries(value: bytes) -> Iterator[tuple[int, bytes | None, Any] | Rejected]:
    """The JSON values of a record: (index, its bytes, the value) each, or Rejected.

    Takes one object, one array (its elements are the entries, their bytes None) or lines. A record
    of which no line can be read is rejected once, whole: it is one broken document, not many.
    """
    if len(value) <= MAX_ENTRY_BYTES:
        try:
            document = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            if b"\n" not in value.strip():
                yield Rejected(0, Reason.UNREADABLE.value, f"not JSON: {error}", value)
                return
        else:
            if document.__class__ is list:
                for index, element in enumerate(document):
                    yield index, None, element
            else:
                yield 0, value, document
            return
    broken: list[Rejected] = []
    readable = False
    for index, line in lines(value):
        if isinstance(line, Rejected):
            broken.append(line)
            continue
        try:
            element = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            bad = Rejected(index, Reason.UNREADABLE.value, f"line {index + 1} is not JSON: {error}", line)
            if readable:
                yield bad
            else:
                broken.append(bad)
            continue
        if not readable:
            readable = True
            yield from broken
            broken = []
        yield index, line, element
    if broken:
        too_large = len(broken) == 1 and broken[0].reason == Reason.TOO_LARGE
        yield broken[0] if too_large else Rejected(0, Reason.UNREADABLE.value, f"not JSON: {broken[0].detail}", value)


def lines(value: bytes) -> Iterator[tuple[int, bytes | Rejected]]:
    """The lines of a record that are not blank, without their ends; Rejected for one that is too long."""
    index = 0
    for whole in value.splitlines():
        line = whole.strip(b" \t\0")
        if not line:
            continue
        if len(line) > MAX_ENTRY_BYTES:
            detail = f"line {index + 1} has {len(line)} bytes: an entry may have {MAX_ENTRY_BYTES}"
            yield index, Rejected(index, Reason.TOO_LARGE.value, detail, line)
        else:
            yield index, line
        index += 1


def encode(entry: Any) -> bytes:
    """An element of a JSON array as bytes of its own."""
    return orjson.dumps(entry)


@lru_cache(maxsize=65_536)
def is_ip(text: str) -> bool:
    """Whether the text is an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def is_address(text: str) -> bool:
    """Whether a recipient key can be made of the text (`identity.normalise`)."""
    if len(text) <= 254 and _ADDRESS.fullmatch(text):
        return True
    try:
        normalise(text)
    except NotAnAddress:
        return False
    return True
