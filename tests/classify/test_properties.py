"""What holds for any report: see strategies.py."""

from __future__ import annotations

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from mailecho.pipeline.classify import Unreadable, classify_message
from mailecho.pipeline.classify.files import jsonl_lines
from mailecho.pipeline.message.addresses import unwrapped
from mailecho.schemas.taxonomy import Kind
from tests.classify.strategies import addresses, recipient_groups, reports


@settings(max_examples=150, deadline=None)
@given(reports())
def test_any_report_gives_findings_that_can_be_written(raw: bytes) -> None:
    try:
        findings = classify_message(raw)
    except Unreadable:
        return
    assert findings
    orjson.dumps(jsonl_lines("x", findings))
    assert all(0 <= f.confidence <= 1 for f in findings)
    assert all((f.cause is None) or f.kind is not Kind.DELIVERY for f in findings)


@settings(max_examples=100, deadline=None)
@given(st.lists(recipient_groups(), min_size=1, max_size=4, unique_by=lambda group: group[0].lower()))
def test_a_well_formed_report_names_its_recipients(groups: list[tuple[str, str]]) -> None:
    status = "Reporting-MTA: dns; mx.example.org\n\n" + "\n\n".join(fields for _, fields in groups)
    raw = (
        "From: mailer-daemon@mx.example.org\nSubject: failure notice\nMIME-Version: 1.0\n"
        'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\n\n'
        f"--b\n\nfailed\n--b\nContent-Type: message/delivery-status\n\n{status}\n\n--b--\n"
    )
    found = {f.recipient.lower() for f in classify_message(raw.encode())}
    assert found == {unwrapped(address).lower() for address, _ in groups}


@given(addresses)
def test_unwrapping_twice_changes_nothing_more(address: str) -> None:
    assert unwrapped(unwrapped(address)) == unwrapped(address)
