"""Ranges that land together, pure: what fits, what is left out of whom, and that an intent forms them again."""

from __future__ import annotations

import pytest
from aiokafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from mailecho.pipeline.config import LanderSettings
from mailecho.pipeline.landing.bundle import Bundle, leads, together
from mailecho.pipeline.landing.intents import METADATA_BYTES, MOST_TOGETHER, Progress, positions, to_runs, token
from mailecho.pipeline.landing.partition import Partition
from tests.landing.kit import Record, emission


def filled(number: int, rows: list[int], progress: Progress | None = None) -> Partition:
    """A partition whose range holds records with so many rows each."""
    part = Partition(TopicPartition("t", number), 0, progress or Progress())
    records = []
    for offset, count in enumerate(rows):
        value, headers = emission(offset, [b'{"p":%d,"o":%d,"i":%d}' % (number, offset, i) for i in range(count)])
        records.append(Record(offset, value, headers, 1_700_000_000_000 + number, number))
    part.fetched(records)  # type: ignore[arg-type]
    part.due(LanderSettings(), 0.0)
    return part


@given(st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=4), min_size=1, max_size=6), st.data())
def test_an_intent_forms_the_same_rows_again_and_knows_whose_they_are(
    shape: list[list[int]], data: st.DataObject
) -> None:
    parts = [filled(number, rows) for number, rows in enumerate(shape)]
    bundle = together(parts[-1], parts, LanderSettings())
    assert [part.where.partition for part in bundle.parts] == list(range(len(shape)))
    body = bundle.events.body()
    assert body == b"".join(part.range.events.body() for part in parts)
    intents = bundle.first_intents(7)
    progress = {part: Progress.loads(part.progress.with_intent(intents[part]).dumps()) for part in parts}
    leader = progress[parts[0]]
    assert all(leads(leader, Partition(part.where, part.offset, progress[part])) for part in parts[1:])
    # whoever owns the first partition forms all of them from its intent alone
    assert leader.intent is not None
    again = [filled(0, [*shape[0], 3], leader)]
    for span in leader.intent.others:
        guest = Progress(span.watermark, intent=intents[parts[span.partition]])
        again.append(filled(span.partition, [*shape[span.partition], 2], guest))
    repeated = Bundle(again)
    assert repeated.events.body() == body
    assert token("t", 0, 0, repeated.intent, "events") == token("t", 0, 0, leader.intent, "events")
    # rows left out are counted to the partition that they are of
    total = sum(sum(rows) for rows in shape)
    left_out = to_runs(data.draw(st.sets(st.integers(0, total - 1)))) if total else ()
    counted = bundle.counts([part.range.events for part in parts], left_out)
    owners = [bundle.events.origin(position).record.partition for position in positions(left_out)]
    assert counted == [owners.count(number) for number in range(len(shape))]


def test_what_does_not_fit_beside_the_first_waits() -> None:
    parts = [filled(number, [40]) for number in range(4)]
    limits = LanderSettings(flush_rows=100)
    assert [part.where.partition for part in together(parts[2], parts, limits).parts] == [0, 2]
    many = [filled(number, [1]) for number in range(MOST_TOGETHER + 3)]
    assert len(together(many[0], many, LanderSettings()).parts) == MOST_TOGETHER


@pytest.mark.parametrize(
    "special",
    [Progress(None, jump=True), Progress(None, resumed=True), Progress(None, lookup_below=9)],
    ids=["a gap was accepted", "resumed", "looked up first"],
)
def test_what_has_to_be_asked_for_one_partition_lands_alone(special: Progress) -> None:
    odd, plain = filled(0, [1], special), filled(1, [1])
    limits = LanderSettings()
    assert together(odd, [odd, plain], limits).parts == (odd,)
    assert together(plain, [odd, plain], limits).parts == (plain,)


def test_the_widest_intent_with_the_most_refused_rows_fits() -> None:
    parts = [filled(number, [1]) for number in range(MOST_TOGETHER)]
    for number, part in enumerate(parts):
        part.where = TopicPartition("t", 9_000 + number)
        part.offset = 10**12 + number
        part.range.end = part.offset + 50_000
        part.progress = Progress(10**12)
    intent = Bundle(parts).first_intents(10**12 * 1_700)[parts[0]]
    widest = Progress(10**12, intent=intent).dumps()
    refused = Progress(10**12, intent=type(intent)(**{**_fields(intent), "refused": _worst()})).dumps()
    assert len(widest) < len(refused) <= METADATA_BYTES


def _fields(intent: object) -> dict[str, object]:
    return {name: getattr(intent, name) for name in intent.__slots__}  # type: ignore[attr-defined]


def _worst() -> tuple[tuple[int, int], ...]:
    return tuple((40_000 + 2 * n, 1) for n in range(250))
