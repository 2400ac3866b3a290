"""Ranges of several partitions that land together, by the same inserts and the same commit.

An insert into the events and their views costs ClickHouse as much as some thousand rows, however few it has. One
insert for all partitions of a lander instead of one for each is what lets rows land by the second at little cost.
Pure; see `intents` for how it is written down, so that it can be repeated by whoever owns its first partition.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate

from aiokafka import TopicPartition

from mailecho.pipeline.config import LanderSettings
from mailecho.pipeline.landing.intents import MOST_TOGETHER, Intent, Progress, Runs, Span, positions
from mailecho.pipeline.landing.partition import Partition
from mailecho.pipeline.landing.ranges import Lines


class Bundle:
    """Ranges in the order in which they are inserted; the first one leads.

    `guests` are among the `parts`, and belong to other landers: they are inserted here and committed there.
    """

    def __init__(self, parts: Sequence[Partition], guests: Sequence[Partition] = ()) -> None:
        self.parts = tuple(parts)
        self.own = tuple(part for part in parts if part not in guests)
        self.leader = parts[0]
        self.events = Lines.joined([part.range.events for part in parts])
        self.changes = Lines.joined([part.range.changes for part in parts])

    @property
    def intent(self) -> Intent:
        """The leader's, which says all."""
        return self.leader.intent

    def first_intents(self, at: int) -> dict[Partition, Intent]:
        """The intents to write before the first insert, by part; `at` is epoch ms."""
        leader, *others = self.parts
        spans = tuple(
            Span(part.where.partition, part.offset, part.range.end, part.range.timestamp, part.progress.watermark)
            for part in others
        )
        led_by = leader.where.partition
        return {leader: Intent(leader.range.end, leader.range.timestamp, at, others=spans)} | {
            part: Intent(part.range.end, part.range.timestamp, at, led_by=led_by) for part in others
        }

    def counts(self, lines: Sequence[Lines], runs: Runs) -> list[int]:
        """How many of the rows at `runs` are of each part; `lines` are the parts' own, joined in their order."""
        firsts = [0, *accumulate(part.rows for part in lines)]
        counted = [0] * len(lines)
        for position in positions(runs):
            counted[bisect_right(firsts, position) - 1] += 1
        return counted


def leads(leader: Progress | None, part: Partition) -> bool:
    """Whether the leader's intent names the partition's open range: it is to land with the leader's."""
    own = part.progress.intent
    if leader is None or leader.intent is None or own is None:
        return False
    spans = ((span.partition, span.start, span.end) for span in leader.intent.others)
    return (part.where.partition, part.offset, own.end) in spans


def leader_of(part: Partition) -> TopicPartition:
    """The partition with whose range this one's open range is to land."""
    assert part.intent.led_by is not None, "it leads itself"
    return TopicPartition(part.where.topic, part.intent.led_by)


def together(first: Partition, others: Iterable[Partition], limits: LanderSettings) -> Bundle:
    """`first` and those of the others that fit beside it within the limits of one insert."""
    parts, rows, size = [first], first.range.events.rows, first.size
    if first.plain:
        for part in others:
            fits = rows + part.range.events.rows <= limits.flush_rows and size + part.size <= limits.flush_bytes
            if part is not first and part.range and part.plain and fits and len(parts) < MOST_TOGETHER:
                parts.append(part)
                rows += part.range.events.rows
                size += part.size
    return Bundle(sorted(parts, key=lambda part: part.where.partition))
