from __future__ import annotations

from typing import Any

import orjson
import pytest

from mailecho.pipeline.lookup.record import BadRecord, read_change
from mailecho.schemas.headers import SchemaRefused
from mailecho.schemas.suppression import State
from tests.lookup.entries import entry, record, tombstone


def read(key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]]) -> Any:
    return read_change(key, value, headers)


def test_an_entry_is_kept_without_the_facts_of_the_fold() -> None:
    change = read(**record(entry(version=12, state="held", later_field="kept")))
    assert (change.version, change.state) == (12, State.HELD)
    body = orjson.loads(change.body)
    assert "facts" not in body
    assert body["later_field"] == "kept"


def test_a_tombstone_has_its_version_in_the_header() -> None:
    change = read(**tombstone(entry(), 31))
    assert (change.version, change.state, change.body) == (31, None, b"")


@pytest.mark.parametrize(
    "broken",
    [
        {"key": None},
        {"key": b"global//address"},
        {"key": b"\xff/\xff/\xff/\xff"},
        {"value": b""},
        {"value": b"{"},
        {"value": b"[]"},
        {"value": b'{"scope":"tenant"}'},
        {"value": orjson.dumps(entry(version=-1))},
        {"value": orjson.dumps(entry(state="gone"))},
        {"value": None},
        {"value": None, "headers": [("version", b"x")]},
    ],
)
def test_what_the_ledger_would_not_write_is_named(broken: dict[str, Any]) -> None:
    with pytest.raises(BadRecord, match=r"key|value|tombstone"):
        read(**record(entry()) | broken)


def test_a_newer_major_schema_is_refused_by_name() -> None:
    with pytest.raises(SchemaRefused, match="suppression/2"):
        read(**record(entry()) | {"headers": [("schema", b"suppression/2.0")]})
    read(**record(entry()) | {"headers": [("schema", b"suppression/1.9")]})
