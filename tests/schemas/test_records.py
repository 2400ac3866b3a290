"""Rows, lines, headers, entry keys: what is written can be read, and says the same."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailecho.schemas import headers as h
from mailecho.schemas.classified import ID_AT, ID_END, ROW_PREFIX, event_line, row_of
from mailecho.schemas.deadletter import DeadLetter, Reason
from mailecho.schemas.event import COLUMNS, Event
from mailecho.schemas.suppression import entry_key, split_entry_key
from mailecho.schemas.taxonomy import FAULT_OF, TRUST_RANK, Cause, Fault, Kind, Permanence, Trust
from tests.schemas.rows import dump_row

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
IDS = st.uuids().map(str)
TIMES = st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)).map(  # noqa: DTZ001
    lambda time: time.strftime("%Y-%m-%d %H:%M:%S.") + f"{time.microsecond // 1000:03}"
)
COUNTS = st.integers(0, 2**31)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "event_id": IDS,
    "recipient_key": IDS,
    "outcome_id": IDS,
    "kind": st.sampled_from([kind.value for kind in Kind]),
    "received_at": TIMES,
    "occurred_at": TIMES,
    "permanence": st.sampled_from([value.value for value in Permanence]),
    "cause": st.sampled_from(["", *(cause.value for cause in Cause)]),
    "fault": st.sampled_from([fault.value for fault in Fault]),
    "trust": st.sampled_from([trust.value for trust in Trust]),
    "smtp_code": st.integers(0, 999),
    "confidence": st.floats(0, 1),
    "queue_seconds": st.floats(0, 1e9),
    "incidents": st.integers(1, 1000),
    "echo": st.booleans(),
} | dict.fromkeys(("attempt", "size_bytes", "raw_partition", "raw_offset", "raw_index"), COUNTS)


@st.composite
def events(draw: st.DrawFn) -> dict[str, Any]:
    """Values of an Event in its order, many of them at their defaults."""
    values = {}
    for name in COLUMNS:
        field = Event.model_fields[name]
        if field.is_required() or draw(st.booleans()):
            values[name] = draw(VALUES.get(name, TEXT))
        elif draw(st.booleans()):
            values[name] = orjson.loads(orjson.dumps(field.default))
    return values


@given(events())
def test_dump_row_is_what_the_model_says(values: dict[str, Any]) -> None:
    written = orjson.loads(dump_row(values))
    event = Event.model_validate(written, strict=False)
    full = orjson.loads(event.model_dump_json())
    assert {**full, **values} == full  # nothing is lost, nothing changed
    kept = orjson.loads(event.model_dump_json(exclude_defaults=True))
    assert written == kept  # exactly the defaults are left out
    assert next(iter(written)) == "event_id"


def test_dump_row_refuses_nothing_but_the_model_does() -> None:
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        Event.model_validate({"event_id": "x", "no_such_column": 1})


HOSTILE = [
    "",
    '"},"address":"x@example.com',
    '},"address":',
    '\\"},\\"address\\":\\"',
    "a\nb@example.com",
    "\u2028\x00\x7f@example.com",
    '{"row":{"event_id":"',
    "ü@bücher.example",
]


@given(events(), st.sampled_from(HOSTILE) | TEXT, st.sampled_from(HOSTILE))
def test_row_of_an_event_line_is_the_row(values: dict[str, Any], address: str, diagnostic: str) -> None:
    row = dump_row(values | {"diagnostic": diagnostic})
    line = event_line(row, address)
    assert row_of(line) == row
    assert line.startswith(ROW_PREFIX)
    assert line[ID_AT:ID_END].decode() == values["event_id"]
    assert b"\n" not in line
    assert orjson.loads(line) == {"row": orjson.loads(row), "address": address}


@pytest.mark.parametrize("line", [b"", b"{}", b'{"command":{}}', b'{"copy":{"event_id":"x"}}', b'{"row":{"event_id":"'])
def test_row_of_anything_else_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match="not an event line"):
        row_of(line)


def test_schema_header_round_trip_and_minor_versions() -> None:
    for name in h.WRITES:
        h.check_schema([h.schema_header(name)], name)
        h.check_schema([(h.SCHEMA, f"{name}/1.99".encode())], name)
    h.check_schema([], "event")  # a console producer sets no headers


def test_only_a_newer_minor_version_is_newer() -> None:
    def of(value: bytes) -> str | None:
        return h.newer([(h.SCHEMA, value)], "event")

    assert of(b"event/1.1") == "event/1.1"
    assert [of(value) for value in (b"event/1.0", b"event/2.0", b"command/1.7", b"event/1.x", b"")] == [None] * 5
    assert h.newer([], "event") is None


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (b"event/2.0", "newer than event/1.x"),
        (b"command/1.0", "this topic holds event/1.x"),
        (b"event/x", "this topic holds event/1.x"),
        (b"\xff\xfe", "this topic holds event/1.x"),
        (b"", "this topic holds event/1.x"),
    ],
)
def test_schema_header_is_refused_by_name(value: bytes, says: str) -> None:
    with pytest.raises(h.SchemaRefused, match=says) as refused:
        h.check_schema([(h.SCHEMA, value)], "event")
    assert repr(value.decode("utf-8", "replace")) in str(refused.value)


def test_the_last_header_of_a_name_counts() -> None:
    assert h.get([("a", b"1"), ("b", b"2"), ("a", b"3")], "a") == "3"
    assert h.get([], "a") is None


@given(
    st.builds(
        DeadLetter,
        reason=st.sampled_from(Reason),
        detail=TEXT,
        origin_topic=TEXT,
        origin_partition=COUNTS,
        origin_offset=COUNTS,
        origin_timestamp=COUNTS,
        redriven=COUNTS,
        reinserted=COUNTS,
    )
)
def test_dead_letter_headers_round_trip(letter: DeadLetter) -> None:
    # the headers of a letter that was redriven and died again must not be told twice
    original = [("source", b"postfix"), (h.REASON, b"poison"), (h.REDRIVEN, b"9")]
    headers = letter.headers(original)
    assert DeadLetter.from_headers(headers) == letter
    assert headers[0] == ("source", b"postfix")
    assert len({name for name, _ in headers}) == len(headers)


def test_a_dead_letter_of_an_earlier_release_is_read() -> None:
    letter = DeadLetter(
        reason=Reason.EMPTY, origin_topic="t", origin_partition=1, origin_offset=2, origin_timestamp=3, redriven=4
    )
    earlier = [(name, value) for name, value in letter.headers() if name not in (h.REINSERTED, h.DETAIL)]
    assert DeadLetter.from_headers(earlier) == letter


def test_dead_letter_detail_is_bounded() -> None:
    letter = DeadLetter(
        reason=Reason.INVALID,
        detail="x" * 5000,
        origin_topic="t",
        origin_partition=0,
        origin_offset=0,
        origin_timestamp=0,
    )
    assert len(dict(letter.headers())[h.DETAIL]) == 1000


@given(st.sampled_from(["global", "tenant", "stream"]), TEXT, st.sampled_from(["address", "domain"]), TEXT)
def test_entry_key_round_trip(scope: str, scope_id: str, subject: str, subject_key: str) -> None:
    assert split_entry_key(entry_key(scope, scope_id, subject, subject_key)) == (scope, scope_id, subject, subject_key)


def test_every_cause_has_one_fault() -> None:
    assert set(FAULT_OF) == set(Cause)
    assert set(TRUST_RANK) == set(Trust)
