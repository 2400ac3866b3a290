"""Whether every raw record is in `classified` or among the dead letters, and reads again as it did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import orjson

from mailecho.pipeline.config import Settings
from mailecho.pipeline.raw import reader_of
from mailecho.pipeline.side import Side
from mailecho.pipeline.verify.compare import named
from mailecho.schemas import headers as h
from mailecho.schemas.classified import ROW_PREFIX, row_of
from mailecho.schemas.deadletter import DeadLetter
from mailecho.schemas.topics import CLASSIFIED, RAW, dlq

Place = tuple[str, int, int]
#: (topic, partition) to the offset up to which it is looked at.
Ends = dict[tuple[str, int], int]


@dataclass(slots=True)
class Classified:
    """What `classified` holds of raw records."""

    seen: set[Place] = field(default_factory=set)
    rows: dict[tuple[Place, int], int] = field(default_factory=dict)  # hash of the row, of present rules only


async def read_classified(side: Side, partitions: int, rules: str, progress: Callable[[int], None]) -> Classified:
    """The origins in all of `classified` that is there; rows only of records classified under `rules`."""
    found = Classified()
    for partition in range(partitions):
        start, end = await side.span(CLASSIFIED, partition)
        async for records in side.read(CLASSIFIED, partition, start, end):
            for record in records:
                present = h.get(record.headers, h.RULES) == rules
                for line in (record.value or b"").split(b"\n"):
                    if line.startswith(ROW_PREFIX):
                        row = orjson.loads(line)["row"]
                        place = (row["raw_topic"], row["raw_partition"], row["raw_offset"])
                        found.seen.add(place)
                        if present:
                            found.rows[place, row.get("raw_index", 0)] = hash(row_of(line))
            progress(len(records))
    return found


async def compare_raw(
    side: Side, settings: Settings, ends: Ends, progress: Callable[[int], None]
) -> tuple[list[str], int]:
    """(faults, how many raw records were looked at): of the records below `ends`, which classify has passed."""
    reading = reader_of(settings)
    classified = await read_classified(side, settings.kafka.partitions, reading.rules, progress)
    dead = await _dead(side)
    nowhere: list[str] = []
    otherwise: list[str] = []
    looked = 0
    for topic in RAW:
        for partition in range(settings.kafka.partitions):
            start, _ = await side.span(topic, partition)
            async for records in side.read(topic, partition, start, ends[topic, partition]):
                for record in records:
                    looked += 1
                    place = (topic, partition, record.offset)
                    if place not in classified.seen and place not in dead:
                        nowhere.append(f"{topic}[{partition}] offset {record.offset}")
                        continue
                    read = reading.reader.read(
                        topic, partition, record.offset, record.timestamp, record.headers, record.value
                    )
                    for line in read.lines:
                        if not line.data.startswith(ROW_PREFIX):
                            continue
                        index = orjson.loads(line.data)["row"].get("raw_index", 0)
                        known = classified.rows.get((place, index))
                        if known is not None and known != hash(row_of(line.data)):
                            otherwise.append(f"{topic}[{partition}] offset {record.offset}")
                progress(len(records))
    return [
        *named("raw record neither in classified nor a dead letter", nowhere),
        *named("raw record classified otherwise now, under the same rules", otherwise),
    ], looked


async def _dead(side: Side) -> set[Place]:
    places: set[Place] = set()
    for topic in RAW:
        start, end = await side.span(dlq(topic), 0)
        async for records in side.read(dlq(topic), 0, start, end):
            for record in records:
                letter = DeadLetter.from_headers(record.headers)
                places.add((letter.origin_topic, letter.origin_partition, letter.origin_offset))
    return places
