"""Benchmarks give complete results, and baselines take turns with what they are compared to."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from uuid import UUID

import orjson
import pytest
from aiokafka import ConsumerRecord

from mailecho.pipeline.bench import bare, classify, dsn, feed, landing, latency, lookup, memory, volume
from mailecho.pipeline.bench.harness import Result, percentile, readable, take_turns
from mailecho.pipeline.bench.up import System, percent_of_a_core, whole_system
from mailecho.pipeline.classify import classify_message
from mailecho.pipeline.classify.reply import RULES_VERSION
from mailecho.pipeline.events import EventBuilder
from mailecho.pipeline.identity import Identity
from mailecho.pipeline.raw import RawReader
from mailecho.schemas.classified import ROW_PREFIX
from mailecho.schemas.topics import RAW_DELIVERY

PARTS = ("classify", "ledger", "lander", "clickhouse", "kafka")
#: What DESIGN promises of every benchmark's JSON.
FIELDS = ("name", "unit", "runs", "median", "baseline", "ratio", "machine")


def test_measures_take_turns_and_begin_with_another_each_time() -> None:
    order: list[str] = []

    def measure(name: str) -> float:
        order.append(name)
        return float(len(order))

    found = take_turns(2, {"a": lambda: measure("a"), "b": lambda: measure("b")}, order.append)
    assert [name for name in order if len(name) == 1] == ["a", "b", "b", "a"]
    assert {name: len(values) for name, values in found.items()} == {"a": 2, "b": 2}


def test_the_ratio_is_that_of_the_medians() -> None:
    result = Result("x", "things/s", [10.0, 30.0, 20.0], "other", [5.0, 4.0, 9.0], {"p99_ms": 1.5}).as_dict()
    assert tuple(result)[: len(FIELDS)] == FIELDS
    assert (result["median"], result["baseline"]["median"], result["ratio"], result["p99_ms"]) == (20.0, 5.0, 4.0, 1.5)
    assert ("p99_ms", "1.5") in readable(result)


def test_percentiles() -> None:
    values = [float(n) for n in range(100)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile(values, 1), percentile([], 0.5)) == (
        50,
        99,
        99,
        0,
    )


def test_made_up_mail_is_the_same_each_time_and_of_several_kinds() -> None:
    messages = list(islice(classify.made_up(), 200))
    assert messages == list(islice(classify.made_up(), 200))
    kinds = {finding.kind.value for _, raw in messages for finding in classify_message(raw)}
    assert kinds >= {"bounce", "delay", "complaint", "auto_reply", "not_feedback"}


def test_classify_over_a_corpus(tmp_path: Path) -> None:
    for name, raw in islice(classify.made_up(), 20):
        (tmp_path / f"{name}.eml").write_bytes(raw)
    (tmp_path / "empty.eml").write_bytes(b"")
    result = classify.run(str(tmp_path), runs=2).as_dict()
    assert result["messages"] == 21
    assert len(result["runs"]) == len(result["baseline"]["runs"]) == 2
    assert result["median"] > 0 < result["baseline"]["median"]
    assert 0 < result["p50_us"] <= result["p99_us"] <= result["slowest"]["ms"] * 1000 + 1
    assert result["slowest"]["name"].endswith(".eml")
    assert result["first_ms"] > 1
    assert result["peak_rss_mb"] > 10
    assert "flanker" in " ".join(result["peers"])


def test_a_corpus_without_messages_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no messages"):
        classify.run(str(tmp_path))


def test_lookup_of_a_small_map() -> None:
    result = lookup.run(entries=200, rate=200, seconds=0.5, runs=1).as_dict()
    assert (result["name"], result["entries"], result["rate"]) == ("lookup", 200, 200)
    assert result["median"] > 0 < result["baseline"]["median"]
    assert 0 < result["p50_ms"] <= result["p99_ms"]
    assert result["bulk_addresses_per_cpu_s"] > 0


@pytest.mark.clickhouse
def test_landing_of_a_few_rows() -> None:
    result = landing.run(rows=1_200, sizes=(500, 1_200), runs=1).as_dict()
    assert (result["name"], result["unit"], result["insert_rows"]) == ("landing", "rows/CPU-s", 1_200)
    assert list(result["by_insert_rows"]) == ["500", "1200"]
    assert result["median"] > 0 < result["baseline"]["median"]
    assert result["without_rollups"] > 0
    assert json.loads(landing.row(8))["kind"] == "bounce"


def test_landing_names_sizes_that_cannot_be() -> None:
    with pytest.raises(ValueError, match=r"\[5000\].*1,000 rows"):
        landing.run(rows=1_000, sizes=(5_000,))


def test_a_slope_is_that_of_the_last_part() -> None:
    warm_up = [(at * 1000, 50.0 + at) for at in range(40)]
    flat = memory.line([*warm_up, *((at * 1000, 90.0) for at in range(40, 101))])
    assert (flat["first_mb"], flat["peak_mb"], flat["last_mb"], flat["slope_mb_per_million"]) == (50.0, 90.0, 90.0, 0.0)
    leak = memory.line([(at * 1000, 50.0 + at) for at in range(101)])
    assert leak["slope_mb_per_million"] == 1000.0
    assert leak["plot"][0] < leak["plot"][-1] == flat["plot"][-1]
    assert memory.slope([(1, 5.0)]) == 0


def test_processor_time_is_of_those_that_lived_all_the_time() -> None:
    assert percent_of_a_core({"a": 1.0, "gone": 1.0}, {"a": 1.5, "new": 3.0}, 10) == {"a": 5.0}


@pytest.fixture(scope="module")
def system(kafka_jars: None) -> Iterator[System]:
    with whole_system() as running:
        yield running


PROCESSES = {"up", "kafka", "clickhouse", "serve", "lander", "ledger-0", "classify-0"}


NOW = 1_795_000_000


def pipeline_rows(source: str, value: bytes, secret: bytes) -> list[dict[str, object]]:
    identity = Identity(secret)
    reader = RawReader(EventBuilder(identity, RULES_VERSION), identity)
    read = reader.read(RAW_DELIVERY, 1, 7, NOW * 1000, [("source", source.encode())], value)
    assert read.letters == []
    return [orjson.loads(line.data)["row"] for line in read.lines if line.data.startswith(ROW_PREFIX)]


@pytest.mark.parametrize("form", [feed.singles, feed.batches])
def test_the_bare_loop_gives_the_rows_of_the_pipeline(form: Callable[..., Iterator[feed.Record]]) -> None:
    """Else the volume benchmark compared two things."""
    secret = bytes(range(32))
    seen = 0
    for source, value in form(3_000, NOW):
        record = ConsumerRecord(
            RAW_DELIVERY, 1, 7, NOW * 1000, 1, None, value, None, 0, len(value), [("source", source.encode())]
        )
        bare_rows = [orjson.loads(row) for row in bare.rows_of(record, secret)]
        for ours, theirs in zip(pipeline_rows(source, value, secret), bare_rows, strict=True):
            for name in ("event_id", "recipient_key", "outcome_id"):
                theirs[name] = str(UUID(theirs[name]))
            assert {name: value for name, value in theirs.items() if value not in ("", 0)} == ours
            seen += 1
    assert seen == 3_000


def test_the_volume_is_stated() -> None:
    kinds = Counter(
        orjson.loads(value)["kind"] if source == "mailecho" else value.rpartition(b" status=")[2].split()[0].decode()
        for source, value in feed.singles(20_000, NOW)
    )
    share = {name: round(count / 200) for name, count in kinds.items()}
    assert 55 <= share["delivery"] + share["sent"] <= 65
    assert 24 <= share["injection"] <= 32
    assert 5 <= share["delay"] + share["deferred"] <= 9
    assert 3 <= share["bounce"] + share["bounced"] <= 7
    assert list(feed.singles(50, NOW)) == list(feed.singles(50, NOW)), "the same for the same seed"


def test_reports_are_distinct_and_each_is_one_event() -> None:
    reports = list(dsn.reports(500, NOW))
    assert len(set(reports)) == 500
    assert 3_500 < sum(map(len, reports)) / 500 < 5_500
    assert all(len(list(classify_message(raw))) == 1 for raw in reports)


@pytest.mark.kafka
@pytest.mark.clickhouse
def test_latency_of_a_whole_system(system: System) -> None:
    result = latency.measure(system, rate=40, seconds=3, idle=1).as_dict()
    assert tuple(result)[: len(FIELDS)] == FIELDS
    assert result["bounces"] == 6
    assert result["median"] > 0 < result["baseline"]["median"]
    for end in ("", "deny_", "baseline_"):
        assert 0 < result[f"{end}p50_ms"] <= result[f"{end}p95_ms"] <= result[f"{end}p99_ms"]
    for name in ("cpu_percent", "idle_cpu_percent"):
        assert set(result[f"{name}_by_process"]) >= PROCESSES
        assert result[name] > 0


@pytest.mark.kafka
@pytest.mark.clickhouse
def test_memory_of_a_whole_system(system: System, tmp_path: Path) -> None:
    result = memory.measure(system, events=3_000, samples=tmp_path / "memory.tsv")
    assert set(result["processes"]) >= PROCESSES
    assert all(0 < found["last_mb"] <= found["peak_mb"] for found in result["processes"].values())
    rows = [line.split("\t") for line in (tmp_path / "memory.tsv").read_text().splitlines()]
    assert rows[0] == ["seconds", "events", "process", "mb"]
    assert {row[2] for row in rows[1:]} == set(result["processes"])
    assert len(memory.readable(result)) == len(result["processes"]) + 3


@pytest.mark.timeout(600)
def test_volume_of_a_few_events(kafka_jars: None) -> None:
    result = volume.run(events=500, runs=1, partitions=2).as_dict()
    assert tuple(result)[: len(FIELDS)] == FIELDS
    assert (result["events"], result["partitions"]) == (500, 2)
    assert result["median"] > 0 < result["batch"]["median"]
    assert set(result["cpu_us_per_event"]) == {*PARTS, "whole_without_kafka"}
