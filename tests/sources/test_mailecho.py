"""Our own JSON: the hot path and the contract agree, and a refusal names the field."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mailecho.pipeline.finding import Finding, Unreadable
from mailecho.pipeline.sources import Rejected, read_delivery
from mailecho.pipeline.sources.entry import Context
from mailecho.pipeline.sources.mailecho import DeliveryEntry, finding
from mailecho.schemas.event import COLUMNS
from mailecho.schemas.taxonomy import Kind, Trust

RECEIVED = 1_772_366_400_000
ENTRY: dict[str, Any] = {
    "kind": "delivery",
    "occurred_at": "2026-03-01T10:20:30.123Z",
    "recipient": "User@Example.com",
    "message_id": "<m1@example.org>",
    "remote_host": "mx.example.com",
    "remote_ip": "192.0.2.9",
    "smtp_code": 250,
    "status": "2.0.0",
    "attempt": 2,
    "queue_seconds": 1,
    "campaign": None,
}


def read(value: bytes, source: str = "mailecho", **options: Any) -> list[Finding | Rejected]:
    return list(read_delivery(value, source=source, received_at_ms=RECEIVED, **options))


def one(entry: dict[str, Any], **options: Any) -> Finding:
    (found,) = read(orjson.dumps(entry), **options)
    assert isinstance(found, Finding), found
    return found


def test_every_field_arrives() -> None:
    values: dict[str, Any] = {
        "kind": "bounce",
        "occurred_at": 1_772_360_430.123,
        "recipient": "user@example.com",
        "message_id": "m1@example.org",
        "envelope_id": "Q1",
        "mail_from": "bounce@example.org",
        "tenant": "acme",
        "stream": "news",
        "campaign": "spring",
        "pool": "p1",
        "source_host": "mta1",
        "sending_ip": "192.0.2.1",
        "remote_host": "mx.example.com",
        "remote_ip": "2001:db8::1",
        "stage": "rcpt",
        "smtp_code": 550,
        "status": "5.1.1",
        "diagnostic": "550 5.1.1 no such user",
        "attempt": 3,
        "queue_seconds": 1.5,
        "size_bytes": 1000,
        "tls": "TLSv1.3",
        "feedback_type": "abuse",
        "incidents": 2,
    }
    assert values.keys() | {"id"} == DeliveryEntry.model_fields.keys()
    found = one(values)
    assert {name: getattr(found, name) for name in values if name not in ("kind", "occurred_at")} == {
        name: value for name, value in values.items() if name not in ("kind", "occurred_at")
    }
    assert found.kind is Kind.BOUNCE
    assert found.trust is Trust.VERIFIED
    assert found.occurred_at_ms == 1_772_360_430_123
    assert found.cause is not None


def test_fields_are_event_columns() -> None:
    own = {"id", "recipient", "mail_from"}  # an identity, and what the event keeps only a key and a domain of
    assert DeliveryEntry.model_fields.keys() - own <= set(COLUMNS)


@pytest.mark.parametrize(
    "time",
    [
        "2026-03-01T10:20:30.123Z",
        "2026-03-01T11:20:30.123+01:00",
        "2026-03-01 10:20:30.123",
        1_772_360_430.123,
        1_772_360_430_123,
    ],
)
def test_times(time: str | float) -> None:
    assert one({**ENTRY, "occurred_at": time}).occurred_at_ms == 1_772_360_430_123


def test_identity() -> None:
    assert one(ENTRY).identity == (
        "delivery",
        "m1@example.org",
        "user@example.com",
        "1772360430123",
        "2.0.0",
        "2",
        "mx.example.com",
    )
    assert one(ENTRY).identity == one({**ENTRY, "diagnostic": "250 other words", "campaign": "x"}).identity
    assert one({**ENTRY, "id": "x1", "tenant": "acme"}).identity == ("id", "acme", "x1")
    assert one({**ENTRY, "occurred_at": 1_772_360_430_123}).identity == one(ENTRY).identity


def test_headers_give_tenant_and_stream_unless_the_entry_does() -> None:
    assert one(ENTRY, tenant="acme", stream="news").tenant == "acme"
    found = one({**ENTRY, "tenant": "other"}, tenant="acme", stream="news")
    assert (found.tenant, found.stream) == ("other", "news")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"kind": "dance"}, "kind"),
        ({"kind": ["bounce"]}, "kind"),
        ({"kind": None}, "kind"),
        ({"kind": "not_feedback"}, "kind"),
        ({"occurred_at": None}, "occurred_at"),
        ({"occurred_at": "yesterday"}, "occurred_at"),
        ({"occurred_at": "2026-03-01"}, "occurred_at"),
        ({"occurred_at": 10**18}, "occurred_at"),
        ({"occurred_at": True}, "occurred_at"),
        ({"recipient": "nobody"}, "recipient"),
        ({"recipient": None}, "recipient"),
        ({"recipient": 7}, "recipient"),
        ({"smtp_code": "250"}, "smtp_code"),
        ({"smtp_code": 700}, "smtp_code"),
        ({"smtp_code": True}, "smtp_code"),
        ({"status": "9.1.1"}, "status"),
        ({"status": "5.1.1\n"}, "status"),
        ({"stage": "party"}, "stage"),
        ({"stage": {}}, "stage"),
        ({"remote_ip": "mx.example.com"}, "remote_ip"),
        ({"sending_ip": "1.2.3"}, "sending_ip"),
        ({"attempt": -1}, "attempt"),
        ({"attempt": 1.5}, "attempt"),
        ({"queue_seconds": -0.1}, "queue_seconds"),
        ({"queue_seconds": "1"}, "queue_seconds"),
        ({"campaign": "x" * 501}, "campaign"),
        ({"id": ""}, "id"),
        ({"colour": "red"}, "colour"),
        ({"colour": None}, "colour"),
        ({"trust": "verified"}, "trust"),
    ],
)
def test_refusal_names_the_field(change: dict[str, Any], field: str) -> None:
    (found,) = read(orjson.dumps({**ENTRY, **change}))
    assert isinstance(found, Rejected)
    assert found.reason == "invalid"
    assert found.detail.startswith(f"{field}: ") or f"; {field}: " in found.detail
    assert orjson.loads(found.entry) == {**ENTRY, **change}


def test_refusal_shows_no_value() -> None:
    (found,) = read(orjson.dumps({**ENTRY, "recipient": "secret person at example.com"}))
    assert isinstance(found, Rejected)
    assert "secret" not in found.detail


def test_array_object_lines_and_pretty_print() -> None:
    entries = [{**ENTRY, "attempt": n} for n in (1, 2, 3)]
    array = orjson.dumps(entries)
    lines = b"\r\n".join(orjson.dumps(e) for e in entries)
    pretty = orjson.dumps(entries, option=orjson.OPT_INDENT_2)
    for value in (array, lines, pretty):
        for source in ("mailecho", ""):
            assert [f.attempt for f in read(value, source) if isinstance(f, Finding)] == [1, 2, 3]


def test_a_bad_entry_leaves_the_others() -> None:
    entries = [ENTRY, {**ENTRY, "smtp_code": 9999}, {**ENTRY, "attempt": 5}]
    lines = [orjson.dumps(e) for e in entries]
    for value, entry in ((orjson.dumps(entries), lines[1]), (b"\n".join(lines), lines[1])):
        found = read(value)
        assert [f.__class__ for f in found] == [Finding, Rejected, Finding]
        assert isinstance(found[1], Rejected)
        assert (found[1].index, found[1].entry) == (1, entry)
    cut = b"\n".join([lines[0][:40], lines[2], lines[0]])
    found = read(cut)
    assert [f.__class__ for f in found] == [Rejected, Finding, Finding]
    assert isinstance(found[0], Rejected)
    assert (found[0].reason, found[0].entry) == ("unreadable", lines[0][:40])


def test_a_broken_document_is_one_dead_letter() -> None:
    for broken in (orjson.dumps([ENTRY] * 50, option=orjson.OPT_INDENT_2)[:-40], orjson.dumps(ENTRY)[:-3]):
        (found,) = read(broken)
        assert isinstance(found, Rejected)
        assert (found.reason, found.entry) == ("unreadable", broken)


_values = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(["5.1.1", "rcpt", "a@example.com", "192.0.2.1", "2026-03-01T00:00:00Z", "bounce"])
    | st.lists(st.integers(), max_size=2)
    | st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)
)


@given(st.dictionaries(st.sampled_from([*DeliveryEntry.model_fields, "other"]), _values, max_size=6), st.booleans())
def test_the_hot_path_takes_what_the_contract_takes(changes: dict[str, Any], from_good: bool) -> None:
    entry = {**ENTRY, **changes} if from_good else changes
    try:
        DeliveryEntry.model_validate(entry)
        allowed = True
    except ValidationError:
        allowed = False
    try:
        finding(entry, Context("mailecho", RECEIVED))
        taken = True
    except Unreadable:
        taken = False
    assert taken is allowed
