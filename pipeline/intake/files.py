"""Files and pipes -> raw records: mails one a record, logs and JSON lines in chunks."""

from __future__ import annotations

import os
import re
import select
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from mailecho.pipeline.intake.record import (
    MAX_MESSAGE_BYTES,
    IntakeError,
    RawRecord,
    Skipped,
    Tags,
    headers_of,
    message_record,
    read_message,
)
from mailecho.schemas.topics import BATCH_BYTES, RAW_DELIVERY, RAW_RECORD_BYTES

#: Rotated logs too: mail.log, mail.log.1.
_LINES = re.compile(r"\.(?:log|jsonl|ndjson)(?:\.\d+)?$", re.IGNORECASE)
_JSON = re.compile(r"\.json$", re.IGNORECASE)

#: How long a pipe is waited for before the caller may look around (and stop).
_POLL_SECONDS = 0.2


def file_records(
    paths: Iterable[str | Path], tags: Tags | None = None, *, topic: str | None = None
) -> Iterator[RawRecord | Skipped | None]:
    """The records of files and directories (recursive, sorted by name, hidden ones left out), and `-` for stdin.

    A file is a log where `tags.source` is given, `topic` is the delivery topic, or its name ends in .log
    (or .log.1), .jsonl or .ndjson: its lines go in chunks to `feedback.raw.delivery`. A .json file is one
    record there, a webhook's body. Any other file is one mail, for `topic`, or `feedback.raw.dsn` and
    `.arf` by what it says it is. Empty files are sent too: the pipeline says so in a dead letter.

    Raises IntakeError, before anything is yielded, where a path does not exist. A file that cannot be read is yielded
    as Skipped; None means that stdin has nothing yet.
    """
    tags = tags or Tags()
    named = [Path(p) for p in paths]
    missing = [str(p) for p in named if str(p) != "-" and not p.exists()]
    if missing:
        raise IntakeError(f"no such file or directory: {', '.join(missing)}")
    return _records(named, tags, topic)


def _records(paths: list[Path], tags: Tags, topic: str | None) -> Iterator[RawRecord | Skipped | None]:
    as_log = bool(tags.source) or topic == RAW_DELIVERY
    for path in paths:
        if str(path) == "-":
            yield from _stdin(tags, topic, as_log)
            continue
        for file in _walk(path):
            try:
                yield from _file(file, tags, topic, as_log)
            except OSError as error:
                yield Skipped(str(file), error.strerror or str(error))


def _walk(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for directory, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            file = Path(directory, name)
            if not name.startswith(".") and file.is_file():
                yield file


def _file(file: Path, tags: Tags, topic: str | None, as_log: bool) -> Iterator[RawRecord]:
    other_topic = topic is not None and topic != RAW_DELIVERY
    if _JSON.search(file.name) and not other_topic:
        size = file.stat().st_size
        if size <= RAW_RECORD_BYTES:
            yield RawRecord(RAW_DELIVERY, file.read_bytes(), headers_of(tags, str(file)))
            return
        as_log = True  # larger than a record: it can only be lines
    if as_log or (_LINES.search(file.name) and not other_topic):
        with file.open("rb") as stream:
            yield from _chunks(stream, str(file), tags, topic or RAW_DELIVERY)
        return
    message, size = read_message(file)
    yield message_record(message, str(file), tags, topic, size=size)


def _chunks(stream: BinaryIO, name: str, tags: Tags, topic: str) -> Iterator[RawRecord]:
    """A log's lines, whole, in records of about BATCH_BYTES; a line longer than a record is cut."""
    cutter = _Lines()
    empty = True
    for block in iter(lambda: stream.read(BATCH_BYTES), b""):
        for chunk in cutter.feed(block):
            empty = False
            yield _chunk_record(chunk, name, tags, topic)
    for chunk in cutter.end():
        empty = False
        yield _chunk_record(chunk, name, tags, topic)
    if empty:
        yield RawRecord(topic, b"", headers_of(tags, name))


def _chunk_record(chunk: bytes, name: str, tags: Tags, topic: str) -> RawRecord:
    cut = len(chunk) if len(chunk) > RAW_RECORD_BYTES else None
    return RawRecord(topic, chunk[:RAW_RECORD_BYTES], headers_of(tags, name, cut))


class _Lines:
    """Blocks of bytes in, chunks of whole lines out. Holds one unfinished line at most."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._dropping = False

    def feed(self, block: bytes) -> Iterator[bytes]:
        """The whole lines up to the end of this block. The tail of an overlong line is dropped."""
        if self._dropping:
            end = block.find(b"\n")
            if end < 0:
                return
            block = block[end + 1 :]
            self._dropping = False
        end = block.rfind(b"\n")
        if end < 0:
            self._rest += block
        else:
            yield bytes(self._rest) + block[: end + 1]
            self._rest = bytearray(block[end + 1 :])
        if len(self._rest) > 2 * RAW_RECORD_BYTES:
            yield bytes(self._rest)
            self._rest = bytearray()
            self._dropping = True

    def end(self) -> Iterator[bytes]:
        """The last line, where it has no end."""
        if self._rest:
            yield bytes(self._rest)


def _stdin(tags: Tags, topic: str | None, as_log: bool) -> Iterator[RawRecord | None]:
    """A mail on stdin, or a log that may never end: its lines are sent as they come."""
    blocks = _available(sys.stdin.buffer.fileno())
    if not as_log:
        message = bytearray()
        size = 0
        for block in blocks:
            if block is None:
                yield None
                continue
            size += len(block)
            if len(message) < MAX_MESSAGE_BYTES:
                message += block
        yield message_record(bytes(message), "-", tags, topic, size=size)
        return
    cutter = _Lines()
    for block in blocks:
        if block is None:
            yield None
            continue
        for chunk in cutter.feed(block):
            yield _chunk_record(chunk, "-", tags, topic or RAW_DELIVERY)
    for chunk in cutter.end():
        yield _chunk_record(chunk, "-", tags, topic or RAW_DELIVERY)


def _available(descriptor: int) -> Iterator[bytes | None]:
    """What a pipe has, as it comes, up to its end; None where it had nothing for a while."""
    while True:
        ready, _, _ = select.select([descriptor], [], [], _POLL_SECONDS)
        if not ready:
            yield None
            continue
        block = os.read(descriptor, BATCH_BYTES)
        if not block:
            return
        yield block
