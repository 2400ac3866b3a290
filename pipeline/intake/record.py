"""What intake hands to the producer: one raw record, or a file that could not be read."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mailecho.pipeline.intake.cut import cut_message
from mailecho.schemas import headers as h
from mailecho.schemas.topics import RAW_ARF, RAW_DSN

#: Of a larger message only the beginning is read: no mail system carries one, and memory is finite.
MAX_MESSAGE_BYTES = 100 * 1024 * 1024

_FILE_HEADER_BYTES = 500
_FEEDBACK_REPORT = re.compile(rb"report-type[ \t]*=[ \t]*\"?feedback-report|message/feedback-report", re.IGNORECASE)


class IntakeError(Exception):
    """Intake cannot start or go on; the message names what is wrong and the way out."""


@dataclass(frozen=True, slots=True)
class Tags:
    """What intake says of all records of a run: headers `source`, `tenant` and `stream`, empty for none."""

    source: str = ""
    tenant: str = ""
    stream: str = ""


@dataclass(frozen=True, slots=True)
class RawRecord:
    """One record for a raw topic. `acknowledged` is called once the broker has it."""

    topic: str
    value: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    acknowledged: Callable[[], None] | None = None

    @property
    def was_cut(self) -> bool:
        return any(name == h.ORIGINAL_SIZE for name, _ in self.headers)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A file that could not be read, and why."""

    file: str
    reason: str


def headers_of(tags: Tags, file: str, original_size: int | None = None) -> tuple[tuple[str, bytes], ...]:
    """The record headers that say where it comes from."""
    named = (
        (h.SOURCE, tags.source),
        (h.TENANT, tags.tenant),
        (h.STREAM, tags.stream),
        (h.ORIGINAL_SIZE, "" if original_size is None else str(original_size)),
        (h.FILE, file[-_FILE_HEADER_BYTES:]),
    )
    return tuple((name, text.encode("utf-8", "replace")) for name, text in named if text)


def message_record(
    message: bytes,
    file: str,
    tags: Tags,
    topic: str | None = None,
    *,
    size: int | None = None,
    acknowledged: Callable[[], None] | None = None,
) -> RawRecord:
    """The record of one mail, cut where it is too large. `size` is the mail's own, if only its beginning was read.

    Without `topic` a mail that says it is an ARF report goes to the complaints' topic, all else to the
    bounces'. That is tidiness: what a mail is follows from its content, on either topic.
    """
    value, original = cut_message(message)
    if size is not None and size > len(value):
        original = size
    if topic is None:
        topic = RAW_ARF if _FEEDBACK_REPORT.search(value, 0, 65_536) else RAW_DSN
    return RawRecord(topic, value, headers_of(tags, file, original), acknowledged)


def read_message(path: Path) -> tuple[bytes, int]:
    """The bytes of a mail file, up to MAX_MESSAGE_BYTES, and the file's size. Raises OSError."""
    with path.open("rb") as file:
        message = file.read(MAX_MESSAGE_BYTES)
        return message, max(len(message), path.stat().st_size)
