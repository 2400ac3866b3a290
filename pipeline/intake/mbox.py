"""An mbox file (RFC 4155 and its relatives), of any size, read as a stream."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from mailecho.pipeline.intake.record import MAX_MESSAGE_BYTES, IntakeError, RawRecord, Tags, message_record

#: A separator has a sender and a time as asctime writes it; "From " at a line's start is also prose.
_SEPARATOR = re.compile(
    rb"From .{0,300}?(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) (?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)"
    rb" [ \d]?\d \d\d:\d\d"
)
#: Longest piece of a line that is looked at; what is longer is no separator.
_LINE_BYTES = 64 * 1024


def mbox_records(file: str | Path, tags: Tags | None = None, *, topic: str | None = None) -> Iterator[RawRecord]:
    """The mails of an mbox file in order, the separator lines left out, all else as it stands.

    A separator counts at the start of the file and after an empty line. The header `file` is the path
    and the mail's number from 1. Raises IntakeError where the file cannot be read or does not begin with a separator.
    """
    path = Path(file)
    try:
        with path.open("rb") as stream:
            if not _SEPARATOR.match(stream.read(1_000)):
                raise IntakeError(f"{path} is no mbox: it does not begin with a `From ` line")
    except OSError as error:
        raise IntakeError(f"cannot read {path}: {error.strerror}") from None
    return _records(path, tags or Tags(), topic)


def _records(path: Path, tags: Tags, topic: str | None) -> Iterator[RawRecord]:
    for number, (message, size) in enumerate(_messages(path), start=1):
        yield message_record(message, f"{path}:{number}", tags, topic, size=size)


def _messages(path: Path) -> Iterator[tuple[bytes, int]]:
    """(bytes, size) of each mail; the bytes end at MAX_MESSAGE_BYTES, the size does not."""
    message = bytearray()
    size = 0
    started = False
    blank = line_start = True
    with path.open("rb") as stream:
        while line := stream.readline(_LINE_BYTES):
            if line_start and blank and line.startswith(b"From ") and _SEPARATOR.match(line):
                if started:
                    yield bytes(message), size
                message, size, started = bytearray(), 0, True
            else:
                size += len(line)
                if len(message) < MAX_MESSAGE_BYTES:
                    message += line
            blank = line_start and line in (b"\n", b"\r\n")
            line_start = line.endswith(b"\n")
    if started:
        yield bytes(message), size
