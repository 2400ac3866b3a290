"""What of the raw records above our commits is in `classified` already, under another rule set.

Ids may depend on rules (a report's action, a recipient found or not), so a record that an older
release classified and could not commit must not be classified again by a newer one.
"""

from __future__ import annotations

from collections.abc import Iterable

import orjson
from aiokafka import TopicPartition

from mailecho.agents.classify import Known
from mailecho.pipeline.side import Side, committed_offsets, side_reader
from mailecho.schemas import headers as h
from mailecho.schemas.classified import ROW_PREFIX
from mailecho.schemas.topics import CLASSIFIED, GROUP_CLASSIFY

#: Output and input stamp their records by different clocks; what is read too much is only filtered.
SLACK_MS = 60_000


async def classified_above(
    bootstrap: str, partitions: int, assigned: Iterable[TopicPartition], rules_version: str
) -> Known:
    """Origins of events in `classified` that lie at or above the committed offsets of `assigned`.

    Empty, without reading more than the ends, where all of the newest records are of our own rules:
    then the same record gives the same ids again.
    """
    async with side_reader(bootstrap) as side:
        spans = {p: await side.span(CLASSIFIED, p) for p in range(partitions)}
        newest = [await _last_rules(side, p, *span) for p, span in spans.items()]
        if all(version in (None, rules_version) for version in newest):
            return {}
        committed = await committed_offsets(bootstrap, GROUP_CLASSIFY)
        floor: dict[tuple[str, int], int] = {}
        since: int | None = None
        for topic, partition in assigned:
            start, end = await side.span(topic, partition)
            offset = max(committed.get((topic, partition), start), start)
            floor[topic, partition] = offset
            async for records in side.read(topic, partition, offset, min(offset + 1, end)):
                appended = records[0].timestamp - SLACK_MS
                since = appended if since is None else min(since, appended)
        known: Known = {}
        if since is None:
            return known
        for p in spans:
            tp = TopicPartition(CLASSIFIED, p)
            found = (await side.consumer.offsets_for_times({tp: since}))[tp]
            if found is None:
                continue
            async for records in side.read(CLASSIFIED, p, found.offset, spans[p][1]):
                for record in records:
                    if h.get(record.headers, h.RULES) != rules_version:
                        _collect(record.value or b"", floor, known)
        return known


def _collect(value: bytes, floor: dict[tuple[str, int], int], known: Known) -> None:
    for line in value.split(b"\n"):
        if not line.startswith(ROW_PREFIX):
            continue
        row = orjson.loads(line)["row"]
        topic, partition, offset = row["raw_topic"], row["raw_partition"], row["raw_offset"]
        if offset >= floor.get((topic, partition), 1 << 62):
            known.setdefault((topic, partition, offset), set()).add(row.get("raw_index", 0))


async def _last_rules(side: Side, partition: int, start: int, end: int) -> str | None:
    version = None
    async for records in side.read(CLASSIFIED, partition, max(start, end - 1), end):
        version = h.get(records[-1].headers, h.RULES)
    return version
