"""What holds for every record, whatever its bytes are."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailecho.pipeline.finding import Finding
from mailecho.pipeline.sources import MAX_REJECTED, SOURCES, Rejected, read_delivery
from mailecho.schemas.deadletter import Reason
from mailecho.schemas.taxonomy import Kind

RECEIVED = 1_772_366_400_000
ENTRY = orjson.dumps({"kind": "open", "occurred_at": 1_772_360_000, "message_id": "m@example.org"})


def read(value: bytes, source: str = "") -> list[Finding | Rejected]:
    return list(read_delivery(value, source=source, received_at_ms=RECEIVED))


_fragments = st.sampled_from(
    [
        ENTRY,
        b'{"kind":"open","occurred_at":',
        b"[",
        b"]",
        b"\0",
        b"\n",
        b"\xff\xfe",
        b'"kind" "occurred_at"',
        b"Mar  1 10:20:30 mx1 postfix/smtp[1]: 3F2A1: ",
        b"to=<a@example.com>, relay=none, delay=1, dsn=5.0.0, status=bounced (",
        b"from=<>, status=expired",
        b"host a[b] said: 550 x (in reply to RCPT TO command))",
    ]
)


@given(
    st.lists(st.binary(max_size=40) | _fragments, max_size=12).map(b"".join),
    st.sampled_from(["", *SOURCES, "nobody", " POSTFIX "]),
)
def test_any_bytes_give_findings_or_rejections(value: bytes, source: str) -> None:
    found = read(value, source)
    assert found
    for item in found:
        assert isinstance(item, Finding | Rejected)
        if isinstance(item, Rejected):
            assert item.reason in set(Reason)
            assert item.detail
    assert found == read(value, source)


@pytest.mark.parametrize("value", [b"", b"  \n\r\n "])
def test_empty(value: bytes) -> None:
    (found,) = read(value, "postfix")
    assert isinstance(found, Rejected)
    assert found.reason == "empty"


def test_unknown_source_is_named() -> None:
    (found,) = read(ENTRY, "smoke-signals")
    assert isinstance(found, Rejected)
    assert found.reason == "unknown_source"
    assert "smoke-signals" in found.detail
    (found,) = read(b"hello")
    assert isinstance(found, Rejected)
    assert found.reason == "unknown_source"


def test_many_broken_entries_do_not_make_many_dead_letters() -> None:
    value = b"\n".join([b"{}", ENTRY, *[b'{"n":%d}' % n for n in range(5_000)], ENTRY])
    found = read(value, "mailecho")
    rejected = [f for f in found if isinstance(f, Rejected)]
    assert len(rejected) == MAX_REJECTED + 1
    assert len(found) - len(rejected) == 2
    assert sum(len(r.entry.splitlines()) for r in rejected) == 5_001
    # what is sent back together is a chunk that can be read again
    assert len([f for f in read(rejected[-1].entry, "mailecho") if isinstance(f, Rejected)]) == MAX_REJECTED + 1


def test_an_entry_larger_than_a_record_is_refused() -> None:
    large = orjson.dumps({"kind": "open", "occurred_at": 1, "diagnostic": "x" * (1024 * 1024)})
    found = read(ENTRY + b"\n" + large, "mailecho")
    assert [f.__class__ for f in found] == [Finding, Rejected]
    assert isinstance(found[1], Rejected)
    assert found[1].reason == "too_large"


def test_a_line_of_nothing_is_not_feedback_once() -> None:
    line = b"Mar  1 10:20:30 mx1 postfix/qmgr[1]: 3F2A1: removed\n"
    found = read(line * 3)
    assert [f.kind for f in found if isinstance(f, Finding)] == [Kind.NOT_FEEDBACK]
