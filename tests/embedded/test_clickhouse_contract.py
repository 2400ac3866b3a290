"""What Mailecho asks of ClickHouse's HTTP interface, from the embedded engine and from a real server.

MAILECHO_TEST_CLICKHOUSE_URL (http://user:password@host:port) adds a server; its tests make and drop a
database of their own there.
"""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import cramjam
import httpx
import orjson
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError
from pydantic import SecretStr

from mailecho.pipeline.config import ClickHouseSettings, Settings
from mailecho.pipeline.landing.database import read_client, write_client
from mailecho.pipeline.landing.migrations import INSERT_SETTINGS, assert_dedup, migrate
from mailecho.schemas.event import COLUMNS, Event
from mailecho.schemas.taxonomy import Kind
from tests.fixtures_clickhouse import EmbeddedClickHouse

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

pytestmark = pytest.mark.clickhouse

SERVER = os.environ.get("MAILECHO_TEST_CLICKHOUSE_URL", "")


@dataclass
class Database:
    """A migrated database and how to reach it."""

    settings: Settings
    writer: Client
    reader: Client
    auth: tuple[str, str]

    @property
    def url(self) -> str:
        return self.settings.clickhouse.url

    @property
    def name(self) -> str:
        return self.settings.clickhouse.database

    def post(self, content: bytes, **params: str) -> httpx.Response:
        return httpx.post(self.url, content=content, params={"database": self.name, **params}, auth=self.auth)

    def number(self, sql: str) -> int:
        return int(str(self.writer.command(sql)))

    def insert(self, rows: list[bytes], token: str, table: str = "events", **settings: str) -> None:
        self.writer.raw_insert(
            table,
            insert_block=b"\n".join(rows),
            fmt="JSONEachRow",
            settings={**INSERT_SETTINGS, "insert_deduplication_token": token, **settings},
        )


@pytest.fixture(scope="module", params=["embedded", *(["server"] if SERVER else [])])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    if request.param == "embedded":
        engine: EmbeddedClickHouse = request.getfixturevalue("clickhouse")
        settings, auth = engine.settings(), ("default", engine.token)
    else:
        url = urlsplit(SERVER)
        auth = (url.username or "default", url.password or "")
        settings = Settings(
            data_dir=tmp_path_factory.mktemp("none"),
            clickhouse=ClickHouseSettings(
                url=f"{url.scheme}://{url.hostname}:{url.port or 8123}",
                database=f"mailecho_test_{uuid.uuid4().hex[:12]}",
                user=auth[0],
                password=SecretStr(auth[1]),
            ),
        )
    with closing(write_client(settings)) as writer:
        migrate(writer)
        with closing(read_client(settings)) as reader:
            yield Database(settings, writer, reader, auth)
        if request.param == "server":
            writer.command(f"DROP DATABASE {settings.clickhouse.database}")


@pytest.fixture(autouse=True)
def empty(database: Database) -> None:
    """Every test starts with empty tables; tokens that a table has seen stay seen."""
    for name in ("events", "landed", "suppression_changes", *ROLLUPS):
        database.writer.command(f"TRUNCATE TABLE {name}")


ROLLUPS = ("rollup_minute_provider", "rollup_minute_ip_cause", "rollup_quarter", "rollup_hour_campaign")
COUNTERS = " + ".join(kind.value for kind in Kind)
TOTALS = {
    "rollup_minute_provider": f"SELECT sum({COUNTERS}) FROM rollup_minute_provider",
    "rollup_minute_ip_cause": "SELECT sum(events) FROM rollup_minute_ip_cause",
    "rollup_quarter": "SELECT sum(events) FROM rollup_quarter",
    "rollup_hour_campaign": f"SELECT sum({COUNTERS}) FROM rollup_hour_campaign",
}


#: Two days of receipt that no TTL touches.
DAYS = [(datetime.now(UTC) - timedelta(days=back)).strftime("%Y-%m-%d") for back in (3, 2)]


def new_token() -> str:
    return f"feedback.events:0:{uuid.uuid4()}:events"


def event_row(i: int, **fields: object) -> bytes:
    """The i-th row: two days of receipt, so that an insert touches two partitions."""
    day = DAYS[i % 2]
    return orjson.dumps(
        {
            "event_id": str(uuid.UUID(int=i)),
            "recipient_key": str(uuid.UUID(int=i % 7)),
            "kind": list(Kind)[i % len(Kind)].value,
            "received_at": f"{day} 00:00:{i % 60:02d}.123",
            "occurred_at": f"{day} 00:{i % 60:02d}:00.000",
            "tenant": f"t{i % 2}",
            "provider": f"p{i % 3}",
            "sending_ip": f"192.0.2.{i % 5}",
            "raw_topic": "feedback.raw.delivery",
            "raw_partition": 0,
            "raw_offset": i,
            **fields,
        }
    )


def totals(database: Database) -> dict[str, int]:
    return {name: database.number(sql) for name, sql in TOTALS.items()}


class TestQueries:
    def test_ping(self, database: Database) -> None:
        assert httpx.get(f"{database.url}/ping").text == "Ok.\n"
        assert httpx.get(f"{database.url}/").text == "Ok.\n"
        assert database.reader.ping()

    def test_native_types_come_as_they_are(self, database: Database) -> None:
        rows = database.reader.query(
            "SELECT toUUID('11111111-2222-3333-4444-555555555555'), toDateTime64('2026-01-02 03:04:05.678', 3, 'UTC'),"
            " toLowCardinality('é\\0\\n'), [1, NULL]::Array(Nullable(Int64)), 1.5::Decimal(9, 2), true, NULL,"
            " map('a', 1)::Map(String, UInt8), 18446744073709551615"
        ).result_rows
        assert rows == [
            (
                uuid.UUID("11111111-2222-3333-4444-555555555555"),
                datetime(2026, 1, 2, 3, 4, 5, 678000),  # noqa: DTZ001
                "é\0\n",
                [1, None],
                Decimal("1.50"),
                True,
                None,
                {"a": 1},
                18446744073709551615,
            )
        ]

    def test_an_empty_result_has_its_columns(self, database: Database) -> None:
        result = database.reader.query("SELECT event_id, kind FROM events WHERE 0")
        assert (result.column_names, result.result_rows) == (("event_id", "kind"), [])
        assert database.reader.query("SELECT kind FROM events LIMIT 0").column_names == ("kind",)
        assert database.reader.command("SELECT kind FROM events") == ""

    def test_many_rows_in_blocks(self, database: Database) -> None:
        rows = database.reader.query("SELECT number, toString(number) FROM numbers(200000)").result_rows
        assert (len(rows), rows[-1]) == (200_000, (199_999, "199999"))

    @pytest.mark.parametrize(
        "value", ["", "a'b", "a\\b", "tab\tline\nend", "\\N", "'; DROP TABLE events; --", "é😀", "{x}"]
    )
    def test_parameters_are_values(self, database: Database, value: str) -> None:
        rows = database.reader.query(
            "SELECT {v:String}, {l:Array(String)}, {n:Int64}", parameters={"v": value, "l": [value, "x"], "n": -5}
        ).result_rows
        assert rows == [(value, [value, "x"], -5)]

    def test_large_parameters_go_as_a_form(self, database: Database) -> None:
        ids = [str(uuid.UUID(int=i)) for i in range(5000)]
        with closing(read_client(database.settings)) as client:
            client._backend.form_encode_query_params = True  # type: ignore[attr-defined]
            rows = client.query("SELECT count() FROM numbers(1) WHERE length({ids:Array(UUID)}) = 5000", {"ids": ids})
        assert rows.result_rows == [(1,)]

    @pytest.mark.parametrize(
        ("params", "body", "expected"),
        [
            ({"query": "SELECT 1"}, b"", "1\n"),
            ({}, b"SELECT 1", "1\n"),
            ({"query": "SELECT"}, b"1 + 1", "2\n"),
            ({"default_format": "JSONEachRow"}, b"SELECT 1 AS a", '{"a":1}\n'),
            ({"default_format": "JSONEachRow"}, b"SELECT 1 AS a FORMAT CSV", "1\n"),
            ({"param_a": "x\\ty"}, b"SELECT {a:String} FORMAT TSVRaw", "x\ty\n"),
            ({"output_format_tsv_crlf_end_of_line": "1"}, b"SELECT 1", "1\r\n"),
        ],
    )
    def test_plain_http(self, database: Database, params: dict[str, str], body: bytes, expected: str) -> None:
        answer = database.post(body, **params)
        assert (answer.status_code, answer.text) == (200, expected)

    def test_get(self, database: Database) -> None:
        answer = httpx.get(
            database.url, params={"query": "SELECT 1 FORMAT JSON", "query_id": "q-1"}, auth=database.auth
        )
        assert answer.json()["data"] == [{"1": 1}]
        assert answer.headers["X-ClickHouse-Query-Id"] == "q-1"
        assert answer.headers["X-ClickHouse-Format"] == "JSON"
        assert answer.headers["Content-Type"].startswith("application/json")
        assert int(orjson.loads(answer.headers["X-ClickHouse-Summary"])["read_rows"]) >= 0

    def test_curl(self, database: Database, tmp_path: Path) -> None:
        arguments = ["curl", "-sS", "-u", ":".join(database.auth), f"{database.url}/?database={database.name}"]
        shown = subprocess.run([*arguments, "-d", "SELECT count() FROM events"], capture_output=True, text=True)
        assert (shown.stdout, shown.stderr) == ("0\n", "")

    @pytest.mark.parametrize(
        ("sql", "code", "status"),
        [
            ("SELECT * FROM nowhere", 60, 404),
            ("SELECT nothing FROM events", 47, 404),
            ("SELECT no_such_function(1)", 46, 404),
            ("SELECT 1 FROM nodb.t", 81, 404),
            ("SELECT FROM WHERE", 62, 400),
            ("SELECT toUInt8('x')", 6, 400),
            ("SELECT throwIf(1)", 395, 500),
            ("SELECT 1; SELECT 2", 62, 400),
        ],
    )
    def test_errors_have_the_servers_code_and_status(
        self, database: Database, sql: str, code: int, status: int
    ) -> None:
        answer = database.post(sql.encode())
        assert (int(answer.headers["X-ClickHouse-Exception-Code"]), answer.status_code) == (code, status)
        assert answer.text.startswith(f"Code: {code}. DB::Exception: ")
        with pytest.raises(DatabaseError) as raised:
            database.reader.query(sql)
        assert raised.value.code == code

    def test_wrong_password_and_unknown_setting(self, database: Database) -> None:
        wrong = httpx.post(database.url, content=b"SELECT 1", auth=(database.auth[0], "wrong"))
        assert (wrong.status_code, wrong.headers["X-ClickHouse-Exception-Code"]) == (403, "516")
        assert database.post(b"SELECT 1", no_such_setting="1").headers["X-ClickHouse-Exception-Code"] == "115"

    def test_get_never_writes(self, database: Database) -> None:
        sql = "INSERT INTO landed (topic) VALUES ('x')"
        answer = httpx.get(database.url, params={"query": sql, "database": database.name}, auth=database.auth)
        assert answer.headers["X-ClickHouse-Exception-Code"] == "164"
        assert database.number("SELECT count() FROM landed") == 0

    def test_a_slow_statement_ends_at_its_limit(self, database: Database) -> None:
        sql = b"SELECT max(sipHash64(number)) FROM numbers(1000000000000)"
        answer = database.post(sql, max_execution_time="1")
        assert (answer.status_code, answer.headers["X-ClickHouse-Exception-Code"]) == (408, "159")


class TestInserts:
    def test_the_same_token_counts_once_in_the_table_and_in_every_rollup(self, database: Database) -> None:
        rows = [event_row(i) for i in range(500)]
        tokens = [new_token(), new_token()]
        for token in (tokens[0], tokens[0], tokens[1], tokens[0], tokens[1]):
            database.insert(rows, token)
        assert database.number("SELECT count() FROM events") == 1000
        assert totals(database) == dict.fromkeys(ROLLUPS, 1000)

    def test_a_token_is_of_one_table(self, database: Database) -> None:
        token = new_token()
        database.insert([event_row(1)], token)
        database.insert([b'{"topic":"x","s":0,"e":5}'], token, "landed")
        database.insert([b'{"topic":"x","s":0,"e":5}'], token, "landed")
        assert database.number("SELECT count() FROM events") == 1
        assert database.number("SELECT count() FROM landed") == 1

    @pytest.mark.parametrize("encoding", ["", "gzip", "zstd", "lz4"])
    def test_compressed_inserts_replay_plain_ones(self, database: Database, encoding: str) -> None:
        pack: dict[str, Callable[[bytes], object]] = {
            "": bytes,
            "gzip": cramjam.gzip.compress,
            "zstd": cramjam.zstd.compress,
            "lz4": cramjam.lz4.compress,
        }
        block = b"\n".join(event_row(i) for i in range(3000))
        settings = {**INSERT_SETTINGS, "insert_deduplication_token": new_token()}
        for name in ("", encoding):
            database.writer.raw_insert(
                "events",
                insert_block=bytes(pack[name](block)),  # type: ignore[call-overload]
                fmt="JSONEachRow",
                settings=settings,
                compression=name or None,
            )
        assert database.number("SELECT count() FROM events") == 3000
        assert totals(database) == dict.fromkeys(ROLLUPS, 3000)

    def test_native_inserts_of_the_client(self, database: Database) -> None:
        key = uuid.UUID(int=2**127)
        database.writer.insert(
            "suppression_changes", [[key.hex, [key, key]]], column_names=["subject_key", "evidence_ids"]
        )
        rows = database.reader.query("SELECT subject_key, evidence_ids FROM suppression_changes").result_rows
        assert rows == [(key.hex, [key, key])]

    def test_what_looks_like_sql_between_rows_is_data(self, database: Database) -> None:
        hostile = event_row(1, diagnostic="550 ; DROP TABLE landed; --\n\n'\"`\0")
        database.insert([hostile, b"", b"", event_row(2)], new_token())
        assert database.number("SELECT count() FROM events") == 2
        for attack in (b"DROP TABLE landed", b"; DROP TABLE landed", b"\n\nDROP TABLE landed;"):
            with pytest.raises(DatabaseError) as raised:
                database.insert([event_row(3), attack], new_token())
            assert raised.value.code in (26, 27, 117)
        assert database.number("SELECT count() FROM landed") == 0
        assert database.number("SELECT count() FROM events") == 2

    def test_a_bad_row_leaves_nothing_behind_and_its_token_free(self, database: Database) -> None:
        token = new_token()
        good = [event_row(i) for i in range(200)]
        for bad in (b'{"raw_offset":"x"}', b'{"no_such_column":1}', b"{"):
            with pytest.raises(DatabaseError):
                database.insert([*good, bad], token, input_format_skip_unknown_fields="0")
            assert database.number("SELECT count() FROM events") == 0
            assert totals(database) == dict.fromkeys(ROLLUPS, 0)
        database.insert(good, token)
        assert totals(database) == dict.fromkeys(ROLLUPS, 200)

    def test_omitted_fields_have_the_models_defaults(self, database: Database) -> None:
        needed = {
            name: value for name, value in orjson.loads(event_row(1)).items() if Event.model_fields[name].is_required()
        }
        database.insert([orjson.dumps(needed)], new_token())
        row = database.post(b"SELECT * FROM events FORMAT JSONEachRow").json()
        assert tuple(row) == COLUMNS
        expected = Event.model_validate(needed).model_dump(mode="json")
        expected["recipient_key"] = str(expected["recipient_key"])
        assert row == expected

    def test_every_field_comes_back_as_it_was(self, database: Database) -> None:
        row = orjson.loads(event_row(1))
        texts = {n: f"{n} é" for n, f in Event.model_fields.items() if f.annotation is str and n not in row}
        texts |= {"cause": "mailbox_full", "permanence": "transient", "fault": "recipient", "trust": "verified"}
        numbers = {
            "smtp_code": 452,
            "confidence": 0.5,
            "incidents": 3,
            "echo": True,
            "attempt": 70_000,
            "tls": "TLSv1.3",
        }
        numbers |= {
            "queue_seconds": 1.5,
            "size_bytes": 2**40,
            "raw_offset": 2**50,
            "raw_partition": 9_999,
            "raw_index": 70_000,
        }
        row |= {**texts, **numbers, "outcome_id": str(uuid.uuid4())}
        Event.model_validate(row)
        database.insert([orjson.dumps(row)], new_token())
        assert database.post(b"SELECT * FROM events FORMAT JSONEachRow").json() == row

    def test_what_the_lander_writes_of_ranges_and_changes(self, database: Database) -> None:
        change = {
            "time": "2026-03-10 00:00:00.123",
            "scope": "tenant",
            "scope_id": "acme",
            "subject": "address",
            "subject_key": str(uuid.UUID(int=1)),
            "domain": "example.com",
            "state": "active",
            "reason": "hard_bounce",
            "cause": "mailbox_unknown",
            "created": "2026-03-09 23:59:59.000",
            "expires": "1970-01-01 00:00:00.000",
            "source": "dsn",
            "actor": "",
            "policy": "0123456789abcdef",
            "version": 2**40,
            "partition": 3,
            "evidence_count": 2,
            "evidence_ids": [str(uuid.UUID(int=5))],
        }
        landed = {
            "topic": "feedback.events",
            "partition": 3,
            "s": 10,
            "e": 20,
            "rows": 9,
            "changes": 1,
            "rejected": 1,
            "duplicates_dropped": 0,
            "bytes": 1000,
            "watermark_before": -1,
            "watermark_after": 19,
            "first_timestamp": "2026-03-10 00:00:00.001",
            "token": "feedback.events:3:10-20",
            "landed_at": "2026-03-10 00:00:01.000",
        }
        for table, row in (("suppression_changes", change), ("landed", landed)):
            database.insert([orjson.dumps(row)], new_token(), table)
            assert database.post(f"SELECT * FROM {table} FORMAT JSONEachRow".encode()).json() == row


class TestRollups:
    def test_echoes_are_left_out_and_complaints_weigh_their_incidents(self, database: Database) -> None:
        rows = [
            event_row(0, kind="bounce"),
            event_row(0, kind="bounce", echo=True),
            event_row(0, kind="complaint", incidents=4),
            event_row(0, kind="delivery", incidents=9),
        ]
        database.insert(rows, new_token())
        assert database.number("SELECT count() FROM events") == 4
        assert totals(database) == dict.fromkeys(ROLLUPS, 6)
        for name in ("rollup_minute_provider", "rollup_hour_campaign"):
            counts = database.writer.query(f"SELECT sum(bounce), sum(complaint), sum(delivery) FROM {name}").result_rows
            assert counts == [(1, 4, 1)]

    def test_every_kind_has_its_counter(self, database: Database) -> None:
        database.insert([event_row(0, kind=kind.value) for kind in Kind for _ in range(2)], new_token())
        columns = ", ".join(f"sum({kind.value})" for kind in Kind)
        for name in ("rollup_minute_provider", "rollup_hour_campaign"):
            assert database.writer.query(f"SELECT {columns} FROM {name}").result_rows == [(2,) * len(Kind)]

    def test_events_dated_over_a_year_are_one_insert_and_are_kept(self, database: Database) -> None:
        today = str(database.writer.command("SELECT toString(today())"))
        rows = [
            event_row(i, received_at=f"{today} 00:00:00.000", occurred_at=str(when))
            for i, when in enumerate(
                row[0]
                for row in database.writer.query(
                    "SELECT toString(toDateTime64(today(), 3, 'UTC') - INTERVAL number DAY) FROM numbers(400)"
                ).result_rows
            )
        ]
        database.insert(rows, new_token())
        for name in ROLLUPS:
            database.writer.command(f"OPTIMIZE TABLE {name} FINAL")
        assert totals(database) == dict.fromkeys(ROLLUPS, 400)

    def test_minutes_quarters_and_hours(self, database: Database) -> None:
        database.insert([event_row(0, occurred_at=f"{DAYS[0]} 13:47:59.999")], new_token())
        rows = database.writer.query(
            "SELECT (SELECT toString(minute) FROM rollup_minute_provider), (SELECT toString(minute) FROM"
            " rollup_minute_ip_cause), (SELECT toString(quarter) FROM rollup_quarter), (SELECT toString(hour) FROM"
            " rollup_hour_campaign)"
        ).result_rows
        assert rows == [tuple(f"{DAYS[0]} 13:{minute}:00" for minute in ("47", "47", "45", "00"))]


def test_a_repeated_insert_is_safe_here(database: Database) -> None:
    assert_dedup(database.writer)
