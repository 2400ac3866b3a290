"""Statement and data of an INSERT are told apart as the server does it."""

from __future__ import annotations

import pytest

from mailecho.pipeline.embedded.clickhouse_insert import Insert, split_insert


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"INSERT INTO t FORMAT JSONEachRow\n{}", ("INSERT INTO t", "JSONEachRow", b"{}")),
        (b"insert into t (`a`,b) format TSV 1\t2", ("insert into t (`a`,b)", "TSV", b"1\t2")),
        (b"INSERT INTO t FORMAT Native\r\n\n\0", ("INSERT INTO t", "Native", b"\n\0")),
        (b"INSERT INTO t FORMAT CSV;\n1", ("INSERT INTO t", "CSV", b"1")),
        (b"INSERT INTO t VALUES (1, 'a)')", ("INSERT INTO t", "Values", b" (1, 'a)')")),
        (
            b"/* FORMAT a */ INSERT -- FORMAT b\n INTO t FORMAT c\n",
            ("/* FORMAT a */ INSERT -- FORMAT b\n INTO t", "c", b""),
        ),
        (b'INSERT INTO t (`FORMAT`, "VALUES") FORMAT TSV\n', ('INSERT INTO t (`FORMAT`, "VALUES")', "TSV", b"")),
        (b"INSERT INTO t (format, values) FORMAT TSV\n", ("INSERT INTO t (format, values)", "TSV", b"")),
        (
            b"INSERT INTO t SETTINGS x = 'FORMAT y' FORMAT TSV\n1",
            ("INSERT INTO t SETTINGS x = 'FORMAT y'", "TSV", b"1"),
        ),
        (b"INSERT INTO FUNCTION null('a Int8') FORMAT TSV\n", ("INSERT INTO FUNCTION null('a Int8')", "TSV", b"")),
    ],
)
def test_statement_format_and_data(text: bytes, expected: tuple[str, str, bytes]) -> None:
    assert split_insert(text) == Insert(*expected)


@pytest.mark.parametrize(
    "text",
    [
        b"SELECT 1 FORMAT JSON",
        b"INSERT INTO t SELECT 1",
        b"INSERT INTO t WITH 1 AS x SELECT x",
        b"INSERT INTO t FROM INFILE 'x' FORMAT TSV",
        b"WITH 1 AS x INSERT INTO t SELECT x",
        b"CREATE TABLE t (a Int8)",
        b"-- INSERT INTO t FORMAT TSV",
        b"",
    ],
)
def test_other_statements_have_no_inline_data(text: bytes) -> None:
    assert split_insert(text) is None
