"""The lander in operation: tables that change under it, a bad row among many, a ClickHouse that does not answer."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import orjson
import psutil
import pytest
from clickhouse_connect.driver.client import Client
from prometheus_client import REGISTRY
from pydantic import SecretStr

from mailecho.pipeline.landing.migrations import Migration, load_migrations, migrate
from mailecho.pipeline.landing.reconcile import reconcile
from mailecho.pipeline.landing.repair import RepairRefused, repair
from mailecho.pipeline.landing.repair import run as run_repair
from mailecho.pipeline.landing.totals import Watch
from mailecho.pipeline.status import kafka_counts
from mailecho.schemas.deadletter import DeadLetter, Reason
from mailecho.schemas.topics import EVENTS, RAW_DELIVERY, dlq
from tests.agents.harness import Cluster, wait_until
from tests.fixtures_clickhouse import EmbeddedClickHouse
from tests.fixtures_kafka import KafkaProcess
from tests.landing.kit import (
    TODAY,
    LanderProcess,
    assert_exact,
    consume,
    emission,
    lands,
    make_topic,
    offset_landed,
    produce,
    row,
    until,
    usual,
)

pytestmark = [pytest.mark.kafka, pytest.mark.clickhouse]

Start = Callable[..., LanderProcess]

#: What a later release might bring: a column, and a rollup of it.
LATER = Migration(
    len(load_migrations()) + 1,
    "later",
    """
ALTER TABLE events ADD COLUMN IF NOT EXISTS later LowCardinality(String);
CREATE TABLE IF NOT EXISTS rollup_later (received_on Date, later String, events UInt64)
ENGINE = SummingMergeTree PARTITION BY received_on ORDER BY (later, received_on)
SETTINGS non_replicated_deduplication_window = 10000;
CREATE MATERIALIZED VIEW IF NOT EXISTS rollup_later_view TO rollup_later AS
SELECT toDate(received_at) AS received_on, later, count() AS events FROM events
WHERE NOT echo GROUP BY received_on, later;
""",
)


@pytest.fixture
def own_client(fresh_clickhouse: EmbeddedClickHouse) -> Client:
    """Of an engine of the test's own, migrated."""
    client = fresh_clickhouse.write_client()
    migrate(client)
    return client


def start_on(engine: EmbeddedClickHouse, kafka: KafkaProcess, directory: Path, topic: str, **env: str) -> LanderProcess:
    return LanderProcess(directory, kafka.bootstrap, engine.url, engine.token, topic, **env)


def test_tables_change_while_rows_land(
    kafka: KafkaProcess, fresh_clickhouse: EmbeddedClickHouse, own_client: Client, tmp_path: Path, topic: str
) -> None:
    client = own_client
    produce(kafka.bootstrap, topic, usual(topic, range(30)))
    # an insert of the old table is repeated on the new one
    died = start_on(fresh_clickhouse, kafka, tmp_path, topic, MAILECHO_FAULTS="lander.after_insert:2")
    assert died.ends() == -9
    migrate(client, [*load_migrations(), LATER])
    lander = start_on(fresh_clickhouse, kafka, tmp_path, topic, MAILECHO_LANDER__FLUSH_SECONDS="0.1")
    try:
        for n in range(30, 60):
            rows = [row(topic, n * 10 + i, **({"later": "x"} if n % 2 else {})) for i in range(10)]
            produce(kafka.bootstrap, topic, [emission(n, rows)])
            if n % 10 == 5:
                column = f"ALTER TABLE events ADD COLUMN IF NOT EXISTS later_{n} UInt8"
                migrate(client, [*load_migrations(), LATER, *_columns(n, column)])
        lands(client, topic, lander, 60)
    finally:
        lander.kill()
    wanted = [n * 10 + i for n in range(60) if n >= 30 or n % 7 != 6 for i in range(10)]
    repair(client)
    assert_exact(client, topic, wanted, changes=8)
    assert client.query("SELECT sum(events), sumIf(events, later = 'x') FROM rollup_later").result_rows == [
        (len(wanted), 150)
    ]


def _columns(upto: int, sql: str) -> list[Migration]:
    """A migration for each column up to this one; all but the last are applied already."""
    first = LATER.number + 1
    found = [
        Migration(first + i, f"later_{n}", f"ALTER TABLE events ADD COLUMN IF NOT EXISTS later_{n} UInt8;")
        for i, n in enumerate(range(35, upto, 10))
    ]
    return [*found, Migration(first + len(found), f"later_{upto}", f"{sql};")]


def test_rows_of_a_newer_release_wait_for_its_migration(
    kafka: KafkaProcess, fresh_clickhouse: EmbeddedClickHouse, own_client: Client, tmp_path: Path, topic: str
) -> None:
    value, headers = emission(0, [row(topic, 0), row(topic, 1, later="x")])
    produce(kafka.bootstrap, topic, [(value, [("schema", b"event/1.9"), *headers[1:]])])
    lander = start_on(fresh_clickhouse, kafka, tmp_path, topic)
    assert lander.ends() == 1
    assert "holds rows of a newer release (event/1.9)" in lander.text()
    assert offset_landed(own_client, topic) == 0
    migrate(own_client, [*load_migrations(), LATER])
    lands(own_client, topic, start_on(fresh_clickhouse, kafka, tmp_path, topic), 1)
    assert_exact(own_client, topic, [0, 1], changes=0)


def test_a_database_that_lacks_a_migration_is_refused(
    kafka: KafkaProcess, fresh_clickhouse: EmbeddedClickHouse, own_client: Client, tmp_path: Path, topic: str
) -> None:
    last = load_migrations()[-1]
    own_client.command(
        f"ALTER TABLE schema_migrations DELETE WHERE number = {last.number}", settings={"mutations_sync": 1}
    )
    lander = start_on(fresh_clickhouse, kafka, tmp_path, topic)
    assert lander.ends() == 1
    assert f"lacks {last.number:04d}_{last.name}: run `mailecho migrate`" in lander.text()


@pytest.mark.parametrize("faults", ["lander.after_letters", "lander.after_exclusion", "lander.after_insert"])
def test_one_bad_row_of_fifty_thousand(
    kafka: KafkaProcess, client: Client, topic: str, start: Start, faults: str
) -> None:
    make_topic(kafka.bootstrap, dlq(topic))
    bad = row(topic, 31_234, smtp_code="not a number")
    records = [
        emission(n, [bad if n * 500 + i == 31_234 else row(topic, n * 500 + i) for i in range(500)]) for n in range(100)
    ]
    produce(kafka.bootstrap, topic, records)
    one_range = {"MAILECHO_LANDER__FLUSH_ROWS": "50000", "MAILECHO_LANDER__FLUSH_SECONDS": "60"}
    assert start(MAILECHO_FAULTS=faults, **one_range).ends(180) == -9
    lands(client, topic, start(**one_range), 100)
    assert_exact(client, topic, [n for n in range(50_000) if n != 31_234], changes=0, rejected=1)
    assert client.query(
        "SELECT s, e, rows, rejected FROM landed WHERE topic = {t:String}", parameters={"t": topic}
    ).result_rows == [(0, 100, 49_999, 1)]
    (letter, *again) = consume(kafka.bootstrap, dlq(topic), 1)
    said = DeadLetter.from_headers(letter.headers)
    assert (letter.value, said.reason, said.origin_offset) == (bad, Reason.REJECTED, 31_234 // 500)
    assert "row 234: " in said.detail
    assert {other.value for other in again} <= {bad}, "once more where it was killed before the exclusion, nothing else"


def test_the_lander_tells_of_a_rollup_that_differs(
    kafka: KafkaProcess, fresh_clickhouse: EmbeddedClickHouse, own_client: Client, tmp_path: Path, topic: str
) -> None:
    produce(kafka.bootstrap, topic, usual(topic, range(10)))
    lander = start_on(fresh_clickhouse, kafka, tmp_path, topic, MAILECHO_LANDER__CHECK_MINUTES="0.01")
    try:
        until(lambda: offset_landed(own_client, topic) == 10, "landed", alive=lander.alive)
        assert "--repair" not in lander.text()
        own_client.command("ALTER TABLE rollup_day DELETE WHERE 1", settings={"mutations_sync": 1})
        until(lambda: "rollup_day counts 0 of the events" in lander.text(), "it says so", alive=lander.alive)
        assert f"received on {TODAY}, and there are 90: `mailecho reconcile`" in lander.text()
        assert "rollup_quarter counts" not in lander.text()
    finally:
        lander.kill()

    def shown(rollup: str) -> float | None:
        return REGISTRY.get_sample_value("mailecho_rollup_difference", {"rollup": rollup})

    limits = fresh_clickhouse.settings().lander.model_copy(update={"check_minutes": 0.001})
    watch = Watch(fresh_clickhouse.settings().model_copy(update={"lander": limits}), lambda: True)
    watch.start()
    until(lambda: shown("rollup_day") == 90, "the metric says by how much")
    assert shown("rollup_quarter") == 0
    repair(own_client)
    until(lambda: shown("rollup_day") == 0, "and that it is mended")
    watch.stop()
    watch.join(30)
    assert reconcile(own_client) == []


def anon_mb(pid: int) -> float:
    """Memory that is the process's own, in MB."""
    return float(psutil.Process(pid).memory_full_info().uss) / 1e6


def test_memory_is_bounded_while_clickhouse_hangs(
    kafka: KafkaProcess, fresh_clickhouse: EmbeddedClickHouse, own_client: Client, tmp_path: Path, topic: str
) -> None:
    produce(kafka.bootstrap, topic, usual(topic, range(5)))
    lander = start_on(
        fresh_clickhouse,
        kafka,
        tmp_path,
        topic,
        MAILECHO_LANDER__FLUSH_BYTES="1048576",
        MAILECHO_LANDER__FLUSH_ROWS="5000",
    )
    engine = fresh_clickhouse.process
    assert engine is not None
    try:
        until(lambda: offset_landed(own_client, topic) == 5, "landed", alive=lander.alive)
        before = anon_mb(lander.process.pid)
        engine.send_signal(signal.SIGSTOP)
        filler = "x" * 3_000
        grown = 0.0
        for first in range(5, 405, 40):  # 100 MB in all
            records = [
                emission(n, [row(topic, n * 80 + i, diagnostic=filler) for i in range(80)])
                for n in range(first, first + 40)
            ]
            produce(kafka.bootstrap, topic, records)
            grown = max(grown, anon_mb(lander.process.pid) - before)
        assert grown < 50, "a range, its body, and what the client fetches ahead"
    finally:
        engine.send_signal(signal.SIGCONT)
        if not lander.alive():
            lander.kill()
    lands(own_client, topic, lander, 405)
    wanted = [n * 10 + i for n in range(5) for i in range(10)] + [n * 80 + i for n in range(5, 405) for i in range(80)]
    assert_exact(own_client, topic, wanted, changes=2)


def test_suppressions_go_on_while_clickhouse_is_away(
    kafka_process: KafkaProcess, fresh_clickhouse: EmbeddedClickHouse, own_client: Client, tmp_path: Path
) -> None:
    cluster = Cluster(kafka_process.bootstrap, tmp_path / "data", partitions=1)
    cluster.prepare()
    access = {
        "MAILECHO_CLICKHOUSE__URL": fresh_clickhouse.url,
        "MAILECHO_CLICKHOUSE__PASSWORD": fresh_clickhouse.token,
        "MAILECHO_LANDER__FLUSH_SECONDS": "0.2",
    }
    fresh_clickhouse.kill()
    try:
        workers = [cluster.worker(role, **access) for role in ("classify", "ledger", "lander")]
        bounce = orjson.dumps(
            {
                "kind": "bounce",
                "recipient": "gone@example.org",
                "message_id": "1@example.com",
                "occurred_at": f"{TODAY} 00:00:01.000",
                "smtp_code": 550,
                "status": "5.1.1",
                "diagnostic": "550 5.1.1 user unknown",
            }
        )
        cluster.produce(RAW_DELIVERY, [bounce], 0, [("source", b"mailecho")])
        wait_until(lambda: any(e["state"] == "active" for e in cluster.entries().values()), "it is suppressed")
        lag = asyncio.run(kafka_counts(cluster.settings()))["lag"]
        assert lag[EVENTS] > 0, "the backlog is shown"
        assert workers[-1].running
        fresh_clickhouse.start()
        ends = cluster.ends(EVENTS)
        until(lambda: offset_landed(own_client, EVENTS) >= ends[0], "all of it lands")
        assert own_client.query("SELECT kind, count() FROM events GROUP BY 1").result_rows == [("bounce", 1)]
        reached = fresh_clickhouse.settings().clickhouse.model_copy(
            update={"url": fresh_clickhouse.url, "password": SecretStr(fresh_clickhouse.token)}
        )
        with pytest.raises(RepairRefused, match="landers run: stop all of them"):
            run_repair(cluster.settings().model_copy(update={"clickhouse": reached}))
    finally:
        for worker in cluster.workers:
            worker.kill()
