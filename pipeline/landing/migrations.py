"""ClickHouse tables from numbered SQL, and the check that no insert can count twice.

The files of `schemas/clickhouse` are applied in the order of their numbers, each once, and noted in
`schema_migrations`. ClickHouse has no transactional DDL: a file that died half-way is run again, so
every statement in it says IF NOT EXISTS. An applied file never changes; a change is a new file.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

#: What every insert of events, changes and ranges is sent with. Without the first two a replay is
#: counted twice, in the table or in its rollups (defaults moved in 26.2). Inserted at once, since an
#: acknowledged row must be there. And in one block: only its size in rows may split it (a range
#: has at most 500,000), never its size in bytes, so that a replay is cut as the first insert was.
INSERT_SETTINGS: dict[str, str] = {
    "insert_deduplicate": "1",
    "deduplicate_blocks_in_dependent_materialized_views": "1",
    "async_insert": "0",
    "min_insert_block_size_rows": "1048449",
    "min_insert_block_size_bytes": "0",
    "max_insert_block_size": "1048449",
    # The views have grouped what they insert: to sum it once more is a fifth of a small insert's cost.
    "optimize_on_insert": "0",
}

#: Blocks that a table remembers; at one flush a second this is more than two hours.
DEDUPLICATION_WINDOW = 10_000
#: A server's replicated tables also forget by age (its default fell from a week to an hour in 25.10).
REPLICATED_WINDOW_SECONDS = 24 * 3600

#: Tables that the lander inserts into or that its views feed.
REQUIRED = (
    "events",
    "landed",
    "suppression_changes",
    "rollup_day",
    "rollup_hour_campaign",
    "rollup_hour_provider",
    "rollup_minute_ip_cause",
    "rollup_minute_provider",
    "rollup_quarter",
)

_APPLIED = "schema_migrations"
_CREATE_APPLIED = f"""
CREATE TABLE IF NOT EXISTS {_APPLIED}
(
    number UInt32,
    name String,
    sha256 String,
    applied_at DateTime DEFAULT now()
)
ENGINE = ReplacingMergeTree(applied_at)
ORDER BY number
"""
_FILE = re.compile(r"(\d{4})_(\w+)\.sql")
_COMMENT = re.compile(r"^\s*--.*$", re.MULTILINE)
_SETTING = re.compile(r"\b(\w+) = '?(\d+)'?")


class MigrationRefused(RuntimeError):
    """The database and this release do not fit together; the message says the way on."""


class CountsUnsafe(RuntimeError):
    """An insert that is repeated could count twice here; the message names the table or the setting."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file."""

    number: int
    name: str
    sql: str

    @property
    def sha256(self) -> str:
        """Of the file's bytes, hex."""
        return hashlib.sha256(self.sql.encode()).hexdigest()

    @property
    def statements(self) -> list[str]:
        """The statements, without comments. None of them holds a semicolon inside."""
        return [s.strip() for s in _COMMENT.sub("", self.sql).split(";") if s.strip()]


def load_migrations(directory: Traversable | None = None) -> list[Migration]:
    """The numbered files in order. Raises MigrationRefused for a number that is missing or twice there."""
    directory = directory or files("mailecho.schemas").joinpath("clickhouse")
    found = []
    for file in directory.iterdir():
        name = _FILE.fullmatch(file.name)
        if name is not None:
            found.append(Migration(int(name[1]), name[2], file.read_text(encoding="utf-8")))
    found.sort(key=lambda migration: migration.number)
    if [m.number for m in found] != list(range(1, len(found) + 1)):
        raise MigrationRefused(f"migrations are numbered {[m.number for m in found]}: this installation is damaged")
    return found


def migrate(client: Client, migrations: list[Migration] | None = None) -> list[str]:
    """Bring the client's database up to this release; gives the names of what was applied now.

    May be repeated and resumed at any time. Raises MigrationRefused where an applied file has another
    checksum, or where the database is newer than this release, and the client's errors.
    """
    wanted = load_migrations() if migrations is None else migrations
    client.command(_CREATE_APPLIED)
    applied = {int(row[0]): (str(row[1]), str(row[2])) for row in _rows(client, _APPLIED_SQL)}
    newer = sorted(set(applied) - {m.number for m in wanted})
    if newer:
        names = ", ".join(f"{number:04d}_{applied[number][0]}" for number in newer)
        raise MigrationRefused(
            f"database {client.database} is newer than this release, which does not know {names}: upgrade Mailecho"
        )
    done = []
    for migration in wanted:
        name = f"{migration.number:04d}_{migration.name}"
        if migration.number in applied:
            if applied[migration.number][1] != migration.sha256:
                raise MigrationRefused(
                    f"migration {name} was applied to database {client.database} with another content "
                    f"(SHA-256 {applied[migration.number][1][:12]}…, now {migration.sha256[:12]}…): "
                    "restore the file, and make the change in a new one"
                )
            continue
        for statement in migration.statements:
            client.command(statement)
        client.insert(
            _APPLIED,
            [[migration.number, migration.name, migration.sha256]],
            column_names=["number", "name", "sha256"],
            settings={"async_insert": "0"},
        )
        done.append(name)
    return done


def assert_dedup(client: Client) -> None:
    """Raise CountsUnsafe unless a repeated insert counts once, in every table and under every view.

    Asked at every start of the lander: a window that is missing on a view's target, or a setting
    that a server's profile pins, would double rollups without a word. Raises MigrationRefused where
    tables are missing.
    """
    tables = {
        str(name): (str(engine), str(full))
        for name, engine, full in _rows(
            client, "SELECT name, engine, engine_full FROM system.tables WHERE database = currentDatabase()"
        )
    }
    missing = [name for name in REQUIRED if name not in tables]
    if missing:
        raise MigrationRefused(f"database {client.database} has no table {', '.join(missing)}: run `mailecho migrate`")
    applied = {int(number) for number, _name, _sha256 in _rows(client, _APPLIED_SQL)}
    pending = [f"{m.number:04d}_{m.name}" for m in load_migrations() if m.number not in applied]
    if pending:
        raise MigrationRefused(f"database {client.database} lacks {', '.join(pending)}: run `mailecho migrate`")
    defaults = {
        str(name): int(value)
        for name, value in _rows(
            client, "SELECT name, value FROM system.merge_tree_settings WHERE name LIKE '%deduplication_window%'"
        )
    }
    for name, (engine, full) in sorted(tables.items()):
        if engine.endswith("MergeTree") and name != _APPLIED:
            _check_table(name, engine, defaults | {k: int(v) for k, v in _SETTING.findall(full)})
    _check_settings(client)


def _check_table(name: str, engine: str, settings: dict[str, int]) -> None:
    replicated = engine.startswith("Replicated")
    wanted = {"replicated_deduplication_window" if replicated else "non_replicated_deduplication_window": 1}
    wanted = dict.fromkeys(wanted, DEDUPLICATION_WINDOW)
    if replicated:
        wanted["replicated_deduplication_window_seconds"] = REPLICATED_WINDOW_SECONDS
    for setting, least in wanted.items():
        have = settings.get(setting, 0)
        if have < least:
            raise CountsUnsafe(
                f"table {name} has {setting} = {have}, so a repeated insert would count twice: "
                f"ALTER TABLE {name} MODIFY SETTING {setting} = {least}"
            )


def _check_settings(client: Client) -> None:
    from clickhouse_connect.driver.exceptions import ProgrammingError

    names = ", ".join(f"'{name}'" for name in INSERT_SETTINGS)
    sql = f"SELECT name, value FROM system.settings WHERE name IN ({names})"
    try:
        rows = client.query(sql, settings=INSERT_SETTINGS).result_rows
    except ProgrammingError as error:  # the client knows which settings this user may set
        raise CountsUnsafe(f"inserts need settings that this user or server does not have: {error}") from error
    have = {str(name): str(value) for name, value in rows}
    for name, value in INSERT_SETTINGS.items():
        if have.get(name) != value:
            raise CountsUnsafe(
                f"setting {name} is {have.get(name, 'unknown to the server')} where inserts need {value}: "
                "take the constraint off the user's profile, or upgrade the server"
            )


_APPLIED_SQL = f"SELECT number, name, sha256 FROM {_APPLIED} FINAL ORDER BY number"


def _rows(client: Client, sql: str) -> list[Any]:
    return list(client.query(sql).result_rows)
