"""Migrations are applied once and in order, and no database is used where inserts could count twice."""

from __future__ import annotations

from dataclasses import replace

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from mailecho.pipeline.landing.migrations import (
    REQUIRED,
    CountsUnsafe,
    Migration,
    MigrationRefused,
    assert_dedup,
    load_migrations,
    migrate,
)
from mailecho.schemas.event import COLUMNS
from mailecho.schemas.taxonomy import Kind
from tests.fixtures_clickhouse import EmbeddedClickHouse

NAMES = [f"{m.number:04d}_{m.name}" for m in load_migrations()]


def test_numbers_have_no_gaps(tmp_path: object) -> None:
    assert [name[:4] for name in NAMES] == [f"{n:04d}" for n in range(1, len(NAMES) + 1)]


@pytest.mark.parametrize("migration", load_migrations(), ids=lambda m: m.name)
def test_every_statement_may_be_repeated(migration: Migration) -> None:
    assert migration.statements
    for statement in migration.statements:
        assert " IF NOT EXISTS " in statement or " IF EXISTS " in statement


def test_the_tables_are_those_of_the_models() -> None:
    sql = "\n".join(m.sql for m in load_migrations())
    events = sql.partition("EXISTS events\n(\n")[2].partition("    INDEX")[0]
    assert tuple(line.split()[0] for line in events.strip().splitlines()) == COLUMNS
    for kind in Kind:
        assert sql.count(f"    {kind.value} UInt64 ") == 3, f"a counter of {kind.value} in all counting rollups"
        assert sql.count(f"kind = '{kind.value}') AS {kind.value}") == 3


@pytest.mark.clickhouse
class TestMigrate:
    def test_a_new_database_then_nothing_more(self, fresh_clickhouse: EmbeddedClickHouse) -> None:
        client = fresh_clickhouse.write_client()
        assert migrate(client) == NAMES
        assert migrate(client) == []
        assert_dedup(client)
        tables = {row[0] for row in client.query("SHOW TABLES").result_rows}
        assert tables >= {*REQUIRED, "schema_migrations"}

    def test_it_goes_on_where_it_died(self, fresh_clickhouse: EmbeddedClickHouse) -> None:
        client = fresh_clickhouse.write_client()
        whole = load_migrations()
        broken = replace(whole[1], sql=whole[1].sql.replace("FROM events\n", "FROM nowhere\n"))
        with pytest.raises(DatabaseError):
            migrate(client, [whole[0], broken, *whole[2:]])
        assert client.command("EXISTS TABLE rollup_minute_provider") == 1
        assert client.command("EXISTS TABLE rollup_minute_provider_view") == 0
        assert migrate(client) == NAMES[1:]
        assert_dedup(client)

    def test_a_changed_file_is_refused_by_name(self, fresh_clickhouse: EmbeddedClickHouse) -> None:
        client = fresh_clickhouse.write_client()
        whole = load_migrations()
        migrate(client, whole[:2])
        changed = replace(whole[1], sql=whole[1].sql + "-- later thought\n")
        with pytest.raises(MigrationRefused, match=r"0002_rollups was applied .* with another content"):
            migrate(client, [whole[0], changed, *whole[2:]])
        assert client.command("EXISTS TABLE landed") == 0

    def test_a_newer_database_is_refused_by_name(self, fresh_clickhouse: EmbeddedClickHouse) -> None:
        client = fresh_clickhouse.write_client()
        whole = load_migrations()
        later = Migration(len(whole) + 1, "of_next_year", "CREATE TABLE IF NOT EXISTS x (a Int8) ENGINE = Memory;")
        migrate(client, [*whole, later])
        with pytest.raises(MigrationRefused, match=rf"newer than this release.*000{later.number}_of_next_year"):
            migrate(client)

    def test_missing_tables_are_named(self, fresh_clickhouse: EmbeddedClickHouse) -> None:
        client = fresh_clickhouse.write_client()
        migrate(client, load_migrations()[:1])
        with pytest.raises(MigrationRefused, match=r"no table landed, suppression_changes.*run `mailecho migrate`"):
            assert_dedup(client)

    @pytest.mark.parametrize("table", ["events", "rollup_quarter", "landed"])
    def test_a_missing_window_is_refused(self, fresh_clickhouse: EmbeddedClickHouse, table: str) -> None:
        client = fresh_clickhouse.write_client()
        migrate(client)
        client.command(f"ALTER TABLE {table} MODIFY SETTING non_replicated_deduplication_window = 100")
        with pytest.raises(CountsUnsafe, match=f"table {table} has non_replicated_deduplication_window = 100.*ALTER"):
            assert_dedup(client)
        client.command(f"ALTER TABLE {table} MODIFY SETTING non_replicated_deduplication_window = 10000")
        assert_dedup(client)

    def test_a_users_own_rollup_without_a_window_is_refused(self, fresh_clickhouse: EmbeddedClickHouse) -> None:
        client = fresh_clickhouse.write_client()
        migrate(client)
        client.command(
            "CREATE MATERIALIZED VIEW mine ENGINE = SummingMergeTree ORDER BY pool AS "
            "SELECT pool, count() AS n FROM events GROUP BY pool"
        )
        with pytest.raises(CountsUnsafe, match=r"table \.inner.*non_replicated_deduplication_window"):
            assert_dedup(client)

    def test_settings_that_are_pinned_are_refused(self, fresh_clickhouse: EmbeddedClickHouse) -> None:
        migrate(fresh_clickhouse.write_client())
        with pytest.raises(CountsUnsafe, match="Setting async_insert is readonly"):
            assert_dedup(fresh_clickhouse.read_client())
