"""Without the owner's password a statement can only read Mailecho's tables."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.fixtures_clickhouse import EmbeddedClickHouse

pytestmark = pytest.mark.clickhouse

SECRET = "the-secret-of-this-file"


@pytest.fixture(scope="module")
def secret(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("secret") / "secret.txt"
    file.write_text(SECRET + "\n")
    return file


#: FILE and OUT stand for a file that must not be read and one that must not come to be.
HOSTILE = [
    # files
    "SELECT file('FILE')",
    "SELECT FILE('FILE')",
    "SELECT `file`('FILE')",
    "SELECT file('FILE') AS `a\nb`",
    "SELECT file('FILE') AS `Identifier x (children 1)`",
    "SELECT arrayMap(file, ['FILE'])",
    "SELECT arrayMap(x -> file(x), ['FILE'])",
    "SELECT * APPLY(x -> file('FILE')) FROM numbers(1)",
    "SELECT 'FILE' AS p, COLUMNS('p') APPLY(file)",
    "WITH file('FILE') AS z SELECT z",
    "SELECT 1 WHERE startsWith(file('FILE'), 'the')",
    "SELECT 1 a ORDER BY a WITH FILL INTERPOLATE (a AS file('FILE'))",
    "SELECT * FROM VALUES('a String', (file('FILE')))",
    "SELECT * REPLACE(file('FILE') AS number) FROM numbers(1)",
    "SELECT (SELECT file('FILE'))::String",
    "SELECT {f:Identifier}('FILE')",
    "EXPLAIN SELECT file('FILE')",
    "EXPLAIN SYNTAX SELECT file('FILE')",
    "DESCRIBE (SELECT file('FILE'))",
    "SHOW TABLES WHERE name = file('FILE')",
    "SHOW COLUMNS FROM events FROM mailecho WHERE field LIKE file('FILE')",
    "SHOW INDEXES FROM events FROM mailecho WHERE key_name = file('FILE')",
    "SELECT * FROM file('FILE', 'LineAsString')",
    "SELECT * FROM fileCluster('default', 'FILE', 'LineAsString')",
    "DESCRIBE file('FILE')",
    "SELECT 1 IN (SELECT * FROM file('FILE', 'LineAsString'))",
    "SELECT 1 INTO OUTFILE 'OUT'",
    "SELECT 1 INTO OUTFILE 'OUT' TRUNCATE FORMAT TSV",
    "INSERT INTO FUNCTION file('OUT', 'TSV', 'a Int8') SELECT 1",
    "SELECT * FROM sqlite('FILE', 'x')",
    "SELECT * FROM eval('SELECT file(''FILE'')')",
    "SELECT 1 FORMAT Template SETTINGS format_template_row = 'FILE'",
    # the network and other processes
    "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString')",
    "SELECT * FROM s3('http://127.0.0.1:1/x', 'TSV')",
    "SELECT * FROM remote('127.0.0.1:1', system.one)",
    "SELECT * FROM cluster('default', system.one)",
    "SELECT * FROM executable('x', 'TSV', 'a String', (SELECT 1))",
    "SELECT * FROM mysql('127.0.0.1:1', 'a', 'b', 'c', 'd')",
    "SELECT * FROM python('x')",
    "EXPLAIN TABLE OVERRIDE mysql('127.0.0.1:1', 'a', 'b', 'c', 'd') PARTITION BY x",
    "SELECT aiGenerate('x', 'y')",
    # the machine
    "SELECT * FROM system.stack_trace",
    "SELECT * FROM `system`.`processes`",
    "SELECT 1 IN system.processes",
    "SELECT * FROM merge('system', 'processes')",
    "SELECT * FROM {d:Identifier}.{t:Identifier}",
    "SHOW PROCESSLIST",
    "SELECT addressToSymbol(1)",
    "SELECT sleepEachRow(1) FROM numbers(3)",
    # writing
    "INSERT INTO mailecho.landed (topic) VALUES ('x')",
    "WITH 1 AS x INSERT INTO mailecho.landed (s) SELECT x",
    "ALTER TABLE mailecho.events DELETE WHERE 1",
    "DROP TABLE mailecho.events",
    "TRUNCATE TABLE mailecho.events",
    "CREATE TABLE mailecho.x (a Int8) ENGINE = Memory",
    "CREATE TEMPORARY TABLE x (a Int8)",
    "CREATE FUNCTION f AS x -> file(x)",
    "OPTIMIZE TABLE mailecho.events FINAL",
    "ATTACH TABLE mailecho.x",
    "BACKUP TABLE mailecho.events TO File('OUT')",
    "SYSTEM STOP MERGES",
    "KILL QUERY WHERE 1",
    # out of the guard
    "SET readonly = 0",
    "SET max_memory_usage = 0",
    "SELECT 1 SETTINGS readonly = 0",
    "SELECT 1 SETTINGS max_execution_time = 0",
    "USE system",
    "SELECT 1; DROP TABLE mailecho.events",
    "SELECT 1; SELECT file('FILE')",
    "SELECT 1 PARALLEL WITH SELECT file('FILE')",
    "EXECUTE AS x SELECT 1",
    "BEGIN TRANSACTION",
    "EXPLAIN AST SELECT 1; SELECT file('FILE')",
    "AST SELECT file('FILE')",
    "SELECT 1\0; SELECT file('FILE')",
    "WATCH mailecho.events",
    "CHECK TABLE mailecho.events",
]


@pytest.mark.parametrize("statement", HOSTILE)
def test_hostile_statements_are_refused(
    clickhouse: EmbeddedClickHouse, secret: Path, tmp_path: Path, statement: str
) -> None:
    out = tmp_path / "out"
    sql = statement.replace("FILE'", f"{secret}'").replace("OUT'", f"{out}'")
    assert str(secret) in sql or "'FILE" not in statement
    answer = httpx.post(
        clickhouse.url,
        content=sql.encode(),
        params={"param_f": "file", "param_d": "system", "param_t": "processes"},
    )
    assert answer.status_code != 200
    assert answer.headers["X-ClickHouse-Exception-Code"] in {"8", "46", "62", "164", "192", "497"}
    assert SECRET not in answer.text
    assert not out.exists()
    assert httpx.get(f"{clickhouse.url}/ping").text == "Ok.\n"


@pytest.mark.parametrize(
    "parameters",
    [
        {"readonly": "0"},
        {"allow_introspection_functions": "1"},
        {"format_schema": "x"},
        {"database": "system"},
        {"log_queries": "0"},
        {"output_format_x'; SELECT 1": "1"},
    ],
)
def test_settings_of_the_owner_are_refused_to_readers(
    clickhouse: EmbeddedClickHouse, parameters: dict[str, str]
) -> None:
    answer = httpx.post(clickhouse.url, content=b"SELECT 1", params=parameters)
    assert answer.headers["X-ClickHouse-Exception-Code"] in {"115", "164", "497"}


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT count() FROM events", "0"),
        ("SELECT count() FROM mailecho.events WHERE diagnostic LIKE '%file%' -- file('x')", "0"),
        ("SELECT sum(bounce) AS url FROM rollup_minute_provider;", "0"),
        ("WITH x AS (SELECT number FROM numbers(3)) SELECT sum(number) FROM x", "3"),
        ("SELECT format('{} {}', 'a', 'b')", "a b"),
        ("SELECT count() > 10 FROM system.columns WHERE table = 'events'", "1"),
        ("SELECT {x:UInt8} IN (1, 2)", "1"),
        ("EXISTS TABLE events", "1"),
        ("SELECT * FROM view(SELECT 5)", "5"),
        ("(SELECT 1) INTERSECT (SELECT 1)", "1"),
    ],
)
def test_what_analysts_ask_is_answered(clickhouse: EmbeddedClickHouse, statement: str, expected: str) -> None:
    answer = httpx.post(clickhouse.url, content=statement.encode(), params={"database": "mailecho", "param_x": "2"})
    assert (answer.status_code, answer.text.strip()) == (200, expected)


@pytest.mark.parametrize(
    "statement",
    [
        "SHOW TABLES",
        "DESCRIBE events",
        "SHOW CREATE TABLE events",
        "EXPLAIN SELECT 1",
        "SHOW DATABASES",
        "SHOW TABLES LIKE 'e%'",
    ],
)
def test_what_tools_ask_is_answered(clickhouse: EmbeddedClickHouse, statement: str) -> None:
    answer = httpx.post(clickhouse.url, content=statement.encode(), params={"database": "mailecho"})
    assert (answer.status_code, bool(answer.text)) == (200, True)


def test_a_reader_cannot_loosen_its_limits_and_may_tighten_them(clickhouse: EmbeddedClickHouse) -> None:
    sql = b"SELECT getSetting('max_execution_time'), getSetting('readonly')"

    def seconds(asked: str) -> str:
        return httpx.post(clickhouse.url, content=sql, params={"max_execution_time": asked}).text

    assert seconds("3") == "3\t1\n"
    assert seconds("0") == seconds("100000") == seconds("60") == "60\t1\n"


def test_a_large_result_is_an_error_and_not_half_a_result(clickhouse: EmbeddedClickHouse) -> None:
    answer = httpx.post(clickhouse.url, content=b"SELECT number FROM numbers(2000000)")
    assert answer.headers["X-ClickHouse-Exception-Code"] == "396"
    assert answer.text.startswith("Code: 396.")


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "rebound.example.com"},
        {"Host": "127.0.0.1.example.com:8123"},
        {"Host": ""},
        {"Origin": "https://example.com"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_other_sites_in_a_browser_are_refused(clickhouse: EmbeddedClickHouse, headers: dict[str, str]) -> None:
    for password in ("", clickhouse.token):
        answer = httpx.post(clickhouse.url, content=b"SELECT 1", headers={**headers, "X-ClickHouse-Key": password})
        assert (answer.status_code, answer.headers["X-ClickHouse-Exception-Code"]) == (403, "497")


def test_a_body_beyond_a_readers_limit_is_refused(clickhouse: EmbeddedClickHouse) -> None:
    answer = httpx.post(clickhouse.url, content=b"SELECT 1 -- " + b"x" * 1024 * 1024)
    assert answer.status_code == 413
