"""Ranges of `feedback.events`: records in, the bytes to insert out. Pure; nothing is parsed.

A range `[start, end)` holds consecutive records of one partition. The same start, end and watermark
give the same bytes, however the records were fetched: that is what makes a repeated insert the same
insert.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from mailecho.pipeline.landing.intents import Runs, positions
from mailecho.schemas import headers as h


class EventsRecord(Protocol):
    """What the lander needs of a record; aiokafka's ConsumerRecord has it."""

    partition: int
    offset: int
    timestamp: int
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]


class GapError(RuntimeError):
    """Offsets or emission numbers are missing: going on would lose events in silence."""


class OffsetGap(GapError):
    """A fetched offset is not the one that follows."""


class EmissionGap(GapError):
    """An emission number is not the one that follows."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """A record that the ledger cannot have written; it is dead-lettered whole. `rows` is what it claims."""

    record: EventsRecord
    why: str
    rows: int


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a row came from: its record, and its place in it."""

    record: EventsRecord
    index: int


@dataclass(slots=True)
class Lines:
    """Newline-delimited rows of a range, kept as the chunks in which they came."""

    chunks: list[bytes] = field(default_factory=list)
    rows: int = 0
    size: int = 0
    _first: list[int] = field(default_factory=list)
    _records: list[EventsRecord] = field(default_factory=list)

    def add(self, record: EventsRecord, chunk: bytes, rows: int) -> None:
        """Append a record's rows; `chunk` ends with a newline."""
        self._first.append(self.rows)
        self._records.append(record)
        self.chunks.append(chunk)
        self.rows += rows
        self.size += len(chunk)

    @classmethod
    def joined(cls, parts: Sequence[Lines]) -> Lines:
        """The rows of all parts, one after the other."""
        if len(parts) == 1:
            return parts[0]
        lines = cls()
        for part in parts:
            lines._first += [lines.rows + first for first in part._first]
            lines._records += part._records
            lines.chunks += part.chunks
            lines.rows += part.rows
            lines.size += part.size
        return lines

    def body(self, *without: Runs) -> bytes:
        """All rows but those at the positions of `without`, each with its newline."""
        if not any(without):
            return b"".join(self.chunks)
        left_out = {position for runs in without for position in positions(runs)}
        return b"".join(row for position, row in enumerate(self.split()) if position not in left_out)

    def split(self) -> list[bytes]:
        """All rows by position, each with its newline."""
        return [line + b"\n" for chunk in self.chunks for line in chunk[:-1].split(b"\n")]

    def origin(self, position: int) -> Origin:
        """Where the row at this position came from."""
        at = bisect_right(self._first, position) - 1
        return Origin(self._records[at], position - self._first[at])


@dataclass(slots=True)
class Range:
    """A range that grows record by record.

    `watermark` is the last emission number, at `start` and then of what was added; None before the
    first ever. `jump` allows the next number to be any higher one (a gap that an operator accepted).
    """

    start: int
    watermark: int | None
    jump: bool = False
    timestamp: int = 0
    end: int = field(init=False)
    events: Lines = field(default_factory=Lines)
    changes: Lines = field(default_factory=Lines)
    malformed: list[Malformed] = field(default_factory=list)
    repeated_records: int = 0
    repeated_rows: int = 0

    def __post_init__(self) -> None:
        self.end = self.start

    def __bool__(self) -> bool:
        return self.end > self.start

    @property
    def size(self) -> int:
        """Bytes held."""
        return self.events.size + self.changes.size

    @property
    def malformed_rows(self) -> int:
        """Event rows that malformed records claim to hold; they do not land."""
        return sum(bad.rows for bad in self.malformed)

    def add(self, record: EventsRecord) -> None:
        """Take the next record.

        Raises OffsetGap or EmissionGap where something is missing before it, and SchemaRefused for a
        newer major version. What the ledger cannot have written goes to `malformed`; what is at or
        below the watermark is a repetition and is dropped.
        """
        if record.offset != self.end:
            raise OffsetGap(
                f"offset {record.offset} came where {self.end} follows: {record.offset - self.end} records of the "
                "topic are missing. They expired while they were read, or the topic was truncated"
            )
        h.check_schema(record.headers, "event")
        emission = _number(record, h.EMISSION)
        if emission is not None and self.watermark is not None:
            if emission <= self.watermark:
                self.repeated_records += 1
                self.repeated_rows += _number(record, h.ROWS) or 0
                self._took(record)
                return
            if emission > self.watermark + 1 and not self.jump:
                raise EmissionGap(
                    f"emission {emission} at offset {record.offset} follows {self.watermark}: "
                    f"{emission - self.watermark - 1} records of classified have no answer in this topic, which the "
                    "ledger never leaves: please report this. To go on without them: "
                    "`mailecho lander --resume`"
                )
        if emission is None:
            self.malformed.append(Malformed(record, f"header {h.EMISSION} is missing or no number", 0))
        else:
            self._read(record)
            self.watermark = emission
            self.jump = False
        self._took(record)

    def _took(self, record: EventsRecord) -> None:
        if self.end == self.start:
            self.timestamp = record.timestamp
        self.end += 1

    def _read(self, record: EventsRecord) -> None:
        rows, at = _number(record, h.ROWS), _number(record, h.CHANGES_AT)
        value = record.value or b""
        if rows is None or at is None or at > len(value):
            self.malformed.append(
                Malformed(record, f"headers {h.ROWS} and {h.CHANGES_AT} do not fit {len(value)} bytes", rows or 0)
            )
            return
        events, changes = (value, b"") if at == len(value) else (value[:at], value[at:])
        found = _lines(events)
        if found != rows:
            self.malformed.append(Malformed(record, f"header {h.ROWS} is {rows}, the value has {found}", rows))
            return
        if events:
            self.events.add(record, _ended(events), rows)
        if changes:
            self.changes.add(record, _ended(changes), _lines(changes))


def _number(record: EventsRecord, name: str) -> int | None:
    text = h.get(record.headers, name)
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


def _lines(chunk: bytes) -> int:
    return chunk.count(b"\n") + (1 if chunk and not chunk.endswith(b"\n") else 0)


def _ended(chunk: bytes) -> bytes:
    return chunk if chunk.endswith(b"\n") else chunk + b"\n"
