"""Ranges: the same offsets give the same bytes, however they were fetched."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from mailecho.pipeline.config import LanderSettings
from mailecho.pipeline.landing.intents import Intent, Progress, to_runs
from mailecho.pipeline.landing.partition import Partition
from mailecho.pipeline.landing.ranges import EmissionGap, OffsetGap, Range
from mailecho.pipeline.landing.start import Refused
from mailecho.schemas.headers import SchemaRefused
from tests.landing.kit import Record, emission


def record(offset: int, n: int, rows: int = 1, changes: int = 0) -> Record:
    value, headers = emission(
        n, [b'{"n":%d,"i":%d}' % (n, i) for i in range(rows)], [b'{"c":%d,"i":%d}' % (n, i) for i in range(changes)]
    )
    return Record(offset, value, headers, timestamp=1_000 + offset)


def filled(records: list[Record], start: int = 0, watermark: int | None = None, **more: Any) -> Range:
    made = Range(start, watermark, **more)
    for one in records:
        made.add(one)
    return made


@st.composite
def topics(draw: st.DrawFn) -> list[Record]:
    """A partition as a crashing ledger leaves it: numbers rise by one, and now and then some come again."""
    records: list[Record] = []
    highest = -1
    for offset in range(draw(st.integers(1, 40))):
        again = highest >= 0 and draw(st.integers(0, 4)) == 0
        n = draw(st.integers(0, highest)) if again else highest + 1
        # what is repeated must not count, whatever it holds
        records.append(record(offset, n, rows=draw(st.integers(0, 4)), changes=draw(st.integers(0, 2))))
        highest = max(highest, n)
    return records


def first_times(records: list[Record]) -> tuple[bytes, bytes]:
    """What must land: the rows and changes of each number's first record."""
    seen: set[int] = set()
    events, changes = b"", b""
    for one in records:
        headers = dict(one.headers)
        n, at = int(headers["n"]), int(headers["changes-at"])
        if n not in seen:
            seen.add(n)
            events += (one.value or b"")[:at]
            changes += (one.value or b"")[at:]
    return events, changes


def drain(
    part: Partition, records: list[Record], sizes: list[int], limits: LanderSettings, at_end: float
) -> list[Range]:
    """Feed the partition in batches of these sizes; every due range, as if it landed."""
    landed = []

    def take(now: float) -> None:
        while part.due(limits, now):
            landed.append(part.range)
            end, watermark = part.range.end, part.range.watermark
            part.advance(end, part.progress.after(end, watermark))

    while records:
        size = sizes.pop() if sizes else len(records)
        part.fetched(records[:size])  # type: ignore[arg-type]
        records = records[size:]
        take(0.0)
    take(at_end)
    return landed


@given(topics(), st.lists(st.integers(1, 7), max_size=20), st.integers(1, 12), st.integers(1, 12))
def test_any_batching_gives_contiguous_ranges_that_can_be_formed_again(
    records: list[Record], sizes: list[int], flush_rows: int, other_rows: int
) -> None:
    where = TopicPartition("t", 0)
    limits = LanderSettings(flush_rows=flush_rows)
    landed = drain(Partition(where, 0, Progress()), records, list(sizes), limits, at_end=60.0)
    assert [made.start for made in landed] == [0, *[made.end for made in landed[:-1]]]
    assert landed[-1].end == len(records)
    events, changes = first_times(records)
    assert b"".join(made.events.body() for made in landed) == events
    assert b"".join(made.changes.body() for made in landed) == changes
    assert sum(made.events.rows for made in landed) == events.count(b"\n")
    # a crash at any of them: the metadata re-forms exactly it, under other limits and another batching
    watermark, jump = None, False
    for made in landed:
        intent = Intent(end=made.end, timestamp=made.timestamp, at=0)
        metadata = Progress(watermark, jump, intent=intent).dumps()
        part = Partition(where, made.start, Progress.loads(metadata))
        again = drain(part, records[made.start :], [3] * 20, LanderSettings(flush_rows=other_rows), at_end=0.0)[0]
        assert (again.start, again.end, again.timestamp) == (made.start, made.end, made.timestamp)
        assert again.events.body() == made.events.body()
        assert again.changes.body() == made.changes.body()
        assert again.watermark == made.watermark
        watermark, jump = made.watermark, made.jump


@given(topics(), st.sets(st.integers(0, 60)))
def test_rows_left_out_are_left_out_and_known_by_origin(records: list[Record], left_out: set[int]) -> None:
    made = filled(records)
    rows = made.events.split()
    assert b"".join(rows) == made.events.body()
    kept = b"".join(row for position, row in enumerate(rows) if position not in left_out)
    assert made.events.body(to_runs(left_out)) == kept
    for position, row in enumerate(rows):
        origin = made.events.origin(position)
        assert origin.record.value is not None
        assert origin.record.value.split(b"\n")[origin.index] + b"\n" == row


def test_a_missing_offset_is_a_gap() -> None:
    with pytest.raises(OffsetGap, match="offset 2 came where 1 follows"):
        filled([record(0, 0), record(2, 1)])


def test_a_missing_emission_is_a_gap() -> None:
    with pytest.raises(EmissionGap, match="emission 9 at offset 1 follows 7"):
        filled([record(0, 7), record(1, 9)], watermark=6)


def test_the_first_emission_may_be_any() -> None:
    assert filled([record(0, 7)]).watermark == 7


def test_a_jump_is_allowed_once_where_an_operator_accepted_a_gap() -> None:
    made = filled([record(50, 3), record(51, 90)], start=50, watermark=6, jump=True)
    assert (made.watermark, made.repeated_records, made.events.rows) == (90, 1, 1)
    with pytest.raises(EmissionGap):
        made.add(record(52, 95))


def test_what_the_ledger_cannot_have_written_is_set_aside() -> None:
    good = record(0, 0, rows=2)
    bad = [
        Record(1, b"junk"),
        replace(record(2, 1, rows=2), value=b'{"one":"row"}\n'),
        replace(record(3, 2), value=None),
        replace(record(4, 3), headers=[("n", b"3"), ("rows", b"1"), ("changes-at", b"10000")]),
    ]
    made = filled([good, *bad, record(5, 4)])
    assert [one.record.offset for one in made.malformed] == [1, 2, 3, 4]
    assert (made.end, made.watermark, made.events.rows) == (6, 4, 3)
    assert made.malformed_rows == 2 + 1 + 1


def test_rows_without_a_last_newline_are_ended() -> None:
    headers = [("n", b"0"), ("rows", b"2"), ("changes-at", b"15")]
    made = filled([Record(0, b'{"a":1}\n{"b":2}{"c":3}', headers), record(1, 1)])
    assert made.events.body() == b'{"a":1}\n{"b":2}\n{"n":1,"i":0}\n'
    assert made.changes.body() == b'{"c":3}\n'


def test_a_newer_schema_is_refused_by_name() -> None:
    with pytest.raises(SchemaRefused, match="event/2"):
        filled([replace(record(0, 0), headers=[("schema", b"event/2.1")])])


def test_an_intent_about_another_topic_is_refused() -> None:
    part = Partition(TopicPartition("t", 0), 0, Progress(None, intent=Intent(end=2, timestamp=77, at=0)))
    part.fetched([record(0, 0)])  # type: ignore[list-item]
    with pytest.raises(Refused, match="recreated"):
        part.due(LanderSettings(), 0.0)


def test_a_range_is_due_by_rows_or_by_time_since_the_last_one() -> None:
    limits = LanderSettings(flush_rows=10, flush_bytes=64 * 1024, flush_seconds=2)
    part = Partition(TopicPartition("t", 0), 0, Progress())

    def landed(now: float) -> None:
        part.turn(now)
        part.advance(part.range.end, part.progress.after(part.range.end, part.range.watermark))

    assert not part.due(limits, 100.0)
    part.fetched([record(0, 0)])  # type: ignore[list-item]
    assert not part.due(limits, 100.0), "after a silence it waits for the rest of a burst"
    assert part.due(limits, 100.5)
    landed(100.5)
    part.fetched([record(1, 1)])  # type: ignore[list-item]
    assert not part.due(limits, 102.4)
    assert part.due(limits, 102.5), "from range to range, whatever its first record's age"
    landed(102.5)
    part.fetched([record(2, 2, rows=10)])  # type: ignore[list-item]
    assert part.due(limits, 102.6), "by rows"
