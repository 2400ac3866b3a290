"""Retention follows from the windows, whatever they are (DESIGN 2, points 6 and 7)."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailecho.schemas import topics as t

WINDOWS = st.builds(
    t.Windows,
    delivery_ms=st.integers(60_000, 30 * t.DAY_MS),
    report_ms=st.integers(60_000, 60 * t.DAY_MS),
)


@given(WINDOWS)
def test_a_full_re_read_of_raw_topics_is_dropped(windows: t.Windows) -> None:
    registry = t.registry(windows=windows)
    for name in t.CLASSIFY_INPUT:
        topic = registry[name]
        assert topic.retention_ms + topic.segment_ms < windows.of(name)
        assert topic.log_append_time, "no producer may lie about arrival"


@given(WINDOWS)
def test_classified_outlives_the_report_window(windows: t.Windows) -> None:
    registry = t.registry(windows=windows)
    assert registry[t.CLASSIFIED].retention_ms > windows.report_ms
    assert registry[t.CLASSIFIED].retention_ms > registry[t.RAW_DSN].retention_ms


def test_the_defaults_are_those_of_the_design() -> None:
    registry = t.registry()
    assert registry[t.CLASSIFIED].retention_ms == 22 * t.DAY_MS
    assert registry[t.CLASSIFIED].retention_ms > t.Windows().delivery_ms
    assert registry[t.EVENTS].retention_ms == 7 * t.DAY_MS
    assert t.Windows() == t.Windows(3 * t.DAY_MS, 15 * t.DAY_MS)


def test_suppressions_are_compacted_and_nothing_else_is() -> None:
    registry = t.registry()
    assert [topic.name for topic in registry.values() if topic.compact] == [t.SUPPRESSIONS]
    config = registry[t.SUPPRESSIONS].config()
    assert config["cleanup.policy"] == "compact"
    assert int(config["retention.ms"]) == -1
    assert int(config["delete.retention.ms"]) > int(config["min.compaction.lag.ms"]) > 0


def test_every_input_has_dead_letters_that_hold_its_largest_record() -> None:
    registry = t.registry()
    for name in (*t.CLASSIFY_INPUT, t.CLASSIFIED, t.EVENTS):
        assert registry[t.dlq(name)].max_message_bytes >= registry[name].max_message_bytes


def test_a_batch_fits_where_it_goes() -> None:
    registry = t.registry()
    assert registry[t.RAW_DSN].max_message_bytes > t.RAW_RECORD_BYTES
    assert registry[t.CLASSIFIED].max_message_bytes > t.BATCH_BYTES
    assert registry[t.EVENTS].max_message_bytes > registry[t.CLASSIFIED].max_message_bytes


def test_keyed_topics_have_the_same_partitions() -> None:
    registry = t.registry(partitions=7)
    assert {registry[name].partitions for name in (*t.RAW, t.CLASSIFIED, t.EVENTS, t.SUPPRESSIONS)} == {7}
    assert registry[t.COMMANDS].partitions == 1, "commands keep their order"


@given(st.uuids(), st.integers(1, 10_000))
def test_partition_of_is_a_partition(key: uuid.UUID, partitions: int) -> None:
    assert 0 <= t.partition_of(str(key), partitions) < partitions


@pytest.mark.parametrize(
    ("key", "partition"),
    [("00000000-0000-0000-0000-000000000000", 0), ("00000005-ffff-ffff-ffff-ffffffffffff", 1)],
)
def test_partition_of_never_changes(key: str, partition: int) -> None:
    assert t.partition_of(key, 4) == partition
