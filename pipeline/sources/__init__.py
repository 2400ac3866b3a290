"""Delivery logs and webhooks -> findings. One file per source; adding one is a file and a line here."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from mailecho.pipeline.finding import Finding
from mailecho.pipeline.sources import mailecho, postfix
from mailecho.pipeline.sources.entry import Context, Reader, Rejected
from mailecho.schemas.deadletter import Reason
from mailecho.schemas.taxonomy import Kind, Trust

__all__ = ["SOURCES", "Rejected", "read_delivery"]

#: Header `source` -> its reader.
SOURCES: dict[str, Reader] = {mailecho.NAME: mailecho.read, postfix.NAME: postfix.read}

#: Asked in this order where a record names no source. Each says yes only where it is certain.
_RECOGNISE: dict[str, Callable[[bytes], bool]] = {
    mailecho.NAME: mailecho.recognise,
    postfix.NAME: postfix.recognise,
}

#: Dead letters of one record. What is beyond goes into one more together, so that a megabyte of
#: broken lines does not become 300,000 dead letters.
MAX_REJECTED = 100


def read_delivery(
    value: bytes,
    *,
    source: str,
    received_at_ms: int,
    tenant: str = "",
    stream: str = "",
    utc_offset_minutes: int = 0,
) -> Iterator[Finding | Rejected]:
    """Read one raw record of `feedback.raw.delivery`: a log line, a JSON object or array, or a chunk of lines.

    `source`, `tenant` and `stream` are the record's headers ("" for none: the source is then recognised
    from the content, where that is certain). `received_at_ms` is the append time in epoch milliseconds: it
    gives traditional syslog stamps their year. `utc_offset_minutes` is the zone of stamps that name none.

    Yields a Finding for each event, all of trust `verified` (the log is our own), and a Rejected for each
    entry that cannot be read. A record without either gives one Finding of kind `not_feedback`, so that
    every record yields something. Raises nothing, whatever the bytes are.
    """
    if not value or value.isspace():
        yield Rejected(0, Reason.EMPTY.value, "the record has no content", value)
        return
    name = source.strip().lower() or next((n for n, certain in _RECOGNISE.items() if certain(value)), "")
    reader = SOURCES.get(name)
    if reader is None:
        why = f"header source={source[:60]!r}: no adapter reads it" if name else "no header `source`, nor recognised"
        yield Rejected(0, Reason.UNKNOWN_SOURCE.value, f"{why}; known are {', '.join(SOURCES)}", value)
        return
    context = Context(name, received_at_ms, tenant, stream, utc_offset_minutes)
    empty = True
    bad = 0
    surplus: list[Rejected] = []
    for item in reader(value, context):
        empty = False
        if isinstance(item, Rejected):
            bad += 1
            if bad > MAX_REJECTED:
                surplus.append(item)
                continue
        yield item
    if surplus:
        first = surplus[0]
        detail = f"{len(surplus)} more entries of a record with {bad} unreadable ones; the first: {first.detail}"
        yield Rejected(first.index, first.reason, detail, b"\n".join(item.entry for item in surplus))
    if empty:
        yield Finding(
            Kind.NOT_FEEDBACK,
            source=name,
            trust=Trust.VERIFIED,
            tenant=tenant,
            stream=stream,
            occurred_at_ms=context.seen_ms,
        )
