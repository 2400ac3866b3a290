"""Retention, the check of totals and the repair of rollups, on the real engine."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from clickhouse_connect.driver.client import Client

from mailecho.pipeline.config import RetentionSettings, load
from mailecho.pipeline.landing.insert import Inserter
from mailecho.pipeline.landing.intents import Intent, Progress
from mailecho.pipeline.landing.migrations import assert_dedup, load_migrations, migrate
from mailecho.pipeline.landing.reconcile import Difference, reconcile
from mailecho.pipeline.landing.repair import repair, under_way
from mailecho.pipeline.landing.retention import apply_retention, differing
from mailecho.pipeline.landing.totals import TOTAL, compare_totals
from mailecho.pipeline.supervise.up import bring_up_to_date
from tests.fixtures_clickhouse import EmbeddedClickHouse
from tests.fixtures_kafka import KafkaProcess
from tests.landing.kit import TODAY, row, until
from tests.landing.test_lander_insert import intent

pytestmark = pytest.mark.clickhouse

DAY_BEFORE = f"{datetime.now(UTC) - timedelta(days=1):%Y-%m-%d}"
LONG_AGO = f"{datetime.now(UTC) - timedelta(days=40):%Y-%m-%d}"


def insert(client: Client, tenant: str, count: int, day: str = TODAY, **fields: object) -> None:
    body = b"".join(
        row(tenant, n, received_at=f"{day} 00:00:01.000", occurred_at=f"{day} 00:00:00.500", **fields) + b"\n"
        for n in range(count)
    )
    Inserter(client).insert("events", body, f"{tenant}-{day}", intent())


def test_a_fresh_database_is_as_the_defaults_say(client: Client) -> None:
    assert differing(client, RetentionSettings()) == []


def test_settings_are_applied_once_and_old_days_go(fresh_clickhouse: EmbeddedClickHouse) -> None:
    client = fresh_clickhouse.write_client()
    migrate(client)
    insert(client, "old", 5, LONG_AGO)
    insert(client, "new", 3)
    shorter = RetentionSettings(events_days=30, minute_days=10, hour_months=24, day_years=1)
    changes = apply_retention(client, shorter)
    assert {change.table for change in changes} == {
        "events",
        *(f"rollup_{name}" for name in ("quarter", "minute_provider", "minute_ip_cause")),
        *(f"rollup_{name}" for name in ("hour_campaign", "hour_provider", "day")),
    }
    assert "rollup_day: TTL received_on + toIntervalYear(5) -> received_on + toIntervalYear(1)" in {
        str(change).partition(" (")[0] for change in changes
    }
    assert apply_retention(client, shorter) == []

    def left() -> list[tuple[str, int]]:
        return [(str(t), int(n)) for t, n in client.query("SELECT tenant, count() FROM events GROUP BY 1").result_rows]

    client.command("OPTIMIZE TABLE events FINAL")
    until(lambda: left() == [("new", 3)], "the old day is dropped")
    assert client.query("SELECT tenant, sum(events) FROM rollup_day GROUP BY 1 ORDER BY 1").result_rows == [
        ("new", 3),
        ("old", 5),
    ]
    assert_dedup(client)
    assert reconcile(client) == [], "a day that one side may have dropped is not compared"


def test_a_ttl_of_an_operator_is_left(fresh_clickhouse: EmbeddedClickHouse) -> None:
    client = fresh_clickhouse.write_client()
    migrate(client)
    client.command("ALTER TABLE events MODIFY TTL toDateTime(received_at) + INTERVAL 50 DAY WHERE tenant = 'x'")
    (change,) = apply_retention(client, RetentionSettings())
    assert change.foreign
    assert "is not ours and is left" in str(change)
    assert len(differing(client, RetentionSettings())) == 1


def test_totals_agree_and_a_difference_is_told_by_day(fresh_clickhouse: EmbeddedClickHouse) -> None:
    client = fresh_clickhouse.write_client()
    migrate(client)
    assert compare_totals(client, [TODAY]) == []
    insert(client, "a", 7)
    insert(client, "b", 4, DAY_BEFORE, kind="complaint", incidents=3)
    insert(client, "c", 5, echo=True)
    assert compare_totals(client, [DAY_BEFORE, TODAY]) == []
    client.command(f"INSERT INTO rollup_day (received_on, kind, events) VALUES ('{DAY_BEFORE}', 'bounce', 2)")
    client.command("ALTER TABLE rollup_hour_provider DELETE WHERE tenant = 'a'", settings={"mutations_sync": 1})
    assert compare_totals(client, [DAY_BEFORE, TODAY]) == [
        Difference("rollup_day", DAY_BEFORE, TOTAL, 14, 12),
        Difference("rollup_hour_provider", TODAY, TOTAL, 0, 7),
    ]


def test_repair_adds_what_lacks_and_takes_off_what_is_too_much(fresh_clickhouse: EmbeddedClickHouse) -> None:
    client = fresh_clickhouse.write_client()
    migrate(client)
    insert(client, "a", 7)
    insert(client, "b", 4, DAY_BEFORE)
    client.command(f"INSERT INTO rollup_day (received_on, day, tenant, events) VALUES ('{TODAY}', '{TODAY}', 'x', 2)")
    client.command("ALTER TABLE rollup_quarter DELETE WHERE tenant = 'b'", settings={"mutations_sync": 1})
    for _ in range(2):
        client.command("ALTER TABLE rollup_hour_provider DELETE WHERE 1", settings={"mutations_sync": 1})
        assert {d.rollup for d in repair(client)} >= {"rollup_hour_provider"}
        assert reconcile(client) == []
    assert repair(client) == []
    client.command("OPTIMIZE TABLE rollup_day FINAL")
    assert client.query("SELECT tenant, sum(events) FROM rollup_day GROUP BY 1 HAVING sum(events) != 0 ORDER BY 1"
                        ).result_rows == [("a", 7), ("b", 4)]  # fmt: skip


def test_a_rollup_that_comes_with_an_upgrade_counts_the_events_before_it(fresh_clickhouse: EmbeddedClickHouse) -> None:
    client = fresh_clickhouse.write_client()
    migrate(client, load_migrations()[:4])
    insert(client, "a", 7)
    insert(client, "b", 4, DAY_BEFORE)
    assert migrate(client) == ["0005_rollup_tiers"]
    insert(client, "c", 2)
    assert {d.rollup for d in reconcile(client)} == {"rollup_day", "rollup_hour_provider"}
    repair(client)
    assert reconcile(client) == []
    assert client.query("SELECT sum(events) FROM rollup_day").result_rows == [(13,)]


@pytest.mark.kafka
def test_the_start_of_up_mends_rollups_that_are_new(kafka: KafkaProcess, fresh_clickhouse: EmbeddedClickHouse) -> None:
    client = fresh_clickhouse.write_client()
    migrate(client, load_migrations()[:4])
    insert(client, "a", 7)
    access = {"url": fresh_clickhouse.url, "password": fresh_clickhouse.token}
    settings = load(fresh_clickhouse.directory, kafka={"bootstrap_servers": kafka.bootstrap}, clickhouse=access)
    assert bring_up_to_date(settings) == ["1 migrations applied"]
    assert client.query("SELECT sum(events) FROM rollup_day").result_rows == [(7,)]
    assert reconcile(client) == []
    assert bring_up_to_date(settings) == [], "nothing is left to do"


def test_only_a_commit_without_an_intent_lets_a_repair_begin() -> None:
    assert not under_way(Progress(5).dumps())
    assert under_way(Progress(5, intent=Intent(9, 0, 0)).dumps())
    assert under_way("")
