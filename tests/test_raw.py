"""A raw record becomes lines or dead letters, never nothing; ids do not depend on when or where it came."""

from __future__ import annotations

from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailecho.pipeline import ids
from mailecho.pipeline.classify import Own
from mailecho.pipeline.events import EventBuilder
from mailecho.pipeline.identity import Identity
from mailecho.pipeline.raw import RawReader, Read
from mailecho.schemas.event import NO_ID, Event
from mailecho.schemas.topics import COMMANDS, RAW_ARF, RAW_DELIVERY, RAW_DSN
from tests.faults.generator import dsn

IDENTITY = Identity(b"k" * 32)
NOW = 1_795_000_000_000


def reader(own_mtas: frozenset[str] = frozenset()) -> RawReader:
    return RawReader(EventBuilder(IDENTITY, "test", own_mtas), IDENTITY, Own(frozenset(), own_mtas))


def read(
    value: bytes, topic: str = RAW_DSN, partition: int = 0, offset: int = 0, at: int = NOW, source: bytes = b""
) -> Read:
    headers = [("source", source)] if source else []
    return reader().read(topic, partition, offset, at, headers, value)


def rows(found: Read) -> list[dict[str, object]]:
    return [orjson.loads(line.data)["row"] for line in found.lines if line.data.startswith(b'{"row"')]


@settings(max_examples=300, deadline=None)
@given(value=st.binary(max_size=600), topic=st.sampled_from((RAW_DSN, RAW_ARF, RAW_DELIVERY, COMMANDS)))
def test_any_bytes_give_something_and_raise_nothing(value: bytes, topic: str) -> None:
    found = read(value, topic)
    assert found.lines or found.letters
    for row in rows(found):
        Event.model_validate(row)


MAIL = (
    b"From: a@example.org\r\nTo: b@example.com\r\nSubject: hello\r\nDate: Fri, 20 Nov 2026 10:00:00 +0000\r\n\r\nhi\r\n"
)


def test_the_same_mail_has_the_same_id_wherever_and_whenever_it_comes() -> None:
    one = read(MAIL, partition=0, offset=1, at=NOW)
    again = read(MAIL.replace(b"\r\n", b"\n"), topic=RAW_ARF, partition=3, offset=9, at=NOW + 10**9)
    forwarded = read(
        b"Received: from mx\r\n by y; Fri, 20 Nov 2026 10:00:01 +0000\r\nDelivered-To: q@example.com\r\n" + MAIL
    )
    assert rows(one)[0]["event_id"] == rows(again)[0]["event_id"] == rows(forwarded)[0]["event_id"]
    assert one.lines[0].key == again.lines[0].key, "so a copy of it meets it in one partition"
    assert rows(one)[0]["event_id"] != rows(read(MAIL.replace(b"hi", b"ho")))[0]["event_id"]


def entry(**more: object) -> bytes:
    return orjson.dumps({"kind": "delivery", "recipient": "Ann@Example.org", "occurred_at": NOW / 1000, **more})


def test_a_row_holds_the_key_and_the_line_the_address() -> None:
    found = read(entry(diagnostic="250 ok <ann@example.org> accepted"), RAW_DELIVERY, source=b"mailecho")
    (row,) = rows(found)
    assert row["recipient_key"] == IDENTITY.recipient_key("ann@example.org") == found.lines[0].key
    assert orjson.loads(found.lines[0].data)["address"] == "ann@example.org"
    assert "ann@" not in str(row)
    assert row["recipient_domain"] == "example.org"


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (NOW / 1000, True),
        (NOW / 1000 - 399 * 86_400, True),
        (NOW / 1000 - 401 * 86_400, False),
        (NOW / 1000 + 80_000, True),
        (NOW / 1000 + 90_000, False),
        (-5_000_000_000, False),
        ("0101-01-01T00:00:00Z", False),
        ("9999-12-31T23:59:59Z", False),
    ],
)
def test_a_time_from_the_content_is_believed_within_bounds(said: object, kept: bool) -> None:
    found = read(entry(occurred_at=said), RAW_DELIVERY, source=b"mailecho")
    (row,) = rows(found)
    assert (row["occurred_at"] == row["received_at"]) is (not kept or said == NOW / 1000)
    assert bool(row.get("occurred_at_raw")) is not kept


def test_a_dsn_of_our_own_mta_is_an_echo() -> None:
    mail = dsn(
        "ann@example.org", "550 5.1.1 User unknown", "5.1.1", "m1@example.com", datetime(2026, 11, 20, tzinfo=UTC)
    )
    ours = reader(frozenset({"mx1.example.com"})).read(RAW_DSN, 0, 0, NOW, [], mail)
    assert (rows(ours)[0]["kind"], rows(ours)[0]["echo"]) == ("bounce", True)
    assert "echo" not in rows(read(mail))[0]


def test_replies_of_one_kind_have_one_template() -> None:
    when = datetime(2026, 11, 20, tzinfo=UTC)
    replies = ("550 5.1.1 <ann@example.org>: no, see a1b2c3d4", "550 5.1.1 <bo@example.org>: no, see z9y8x7w6")
    one, other = (
        rows(read(dsn("ann@example.org", reply, "5.1.1", "m@example.com", when)))[0]["template"] for reply in replies
    )
    assert one == other != ""


def test_an_oversized_event_is_a_dead_letter_and_its_neighbours_go_on() -> None:
    chunk = b"\n".join([entry(id="a"), entry(id="b", campaign="x" * 600), entry(id="c")])
    found = read(chunk, RAW_DELIVERY, source=b"mailecho")
    assert len(rows(found)) + len(found.letters) == 3
    assert len(rows(found)) == 2


def test_ids_carry_their_time() -> None:
    assert ids.id_ms(bytes.fromhex(ids.event_id(NOW, "t", "a").replace("-", ""))) == NOW
    assert ids.event_id(NOW, "t", "a", "bc") != ids.event_id(NOW, "t", "ab", "c")
    assert ids.event_id(-1, "t") == ids.event_id(0, "t")
    assert ids.event_id(1 << 60, "t") == ids.event_id((1 << 48) - 1, "t")


@pytest.mark.parametrize(
    ("command", "field"),
    [
        ({"type": "add", "id": "12345678"}, "either address or domain"),
        (
            {"type": "add", "id": "12345678", "address": "a@example.org", "domain": "example.org"},
            "either address or domain",
        ),
        ({"type": "add", "id": "12345678", "address": "nonsense"}, "address"),
        ({"type": "add", "id": "1", "address": "a@example.org"}, "id"),
        ({"type": "party", "id": "12345678"}, "type"),
        ({"type": "add", "id": "12345678", "address": "a@example.org", "colour": "red"}, "colour"),
        ([], "object"),
    ],
)
def test_a_bad_command_names_its_field(command: object, field: str) -> None:
    (letter,) = read(orjson.dumps(command), COMMANDS).letters
    assert letter.reason == "invalid"
    assert field in letter.detail


def test_an_address_that_is_none_is_an_event_without_recipient() -> None:
    mail = MAIL.replace(b"\r\n\r\nhi", b"\r\nAuto-Submitted: auto-replied\r\n\r\nI am away")
    (row,) = rows(read(mail))
    assert row["kind"] == "auto_reply"
    assert row.get("recipient_key", NO_ID) == NO_ID or row["recipient_domain"]
