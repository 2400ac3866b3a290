"""Messages of each format family, read to the end: kinds, recipients, codes, causes."""

from __future__ import annotations

import tomllib
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailecho.pipeline.classify import Own, Unreadable, classify_message
from mailecho.pipeline.classify.files import jsonl_lines
from mailecho.schemas.taxonomy import Cause, Kind, Trust

SAMPLES = Path(__file__).parent.parent / "samples"
EXPECTED = tomllib.loads((SAMPLES / "reports.toml").read_text("utf-8"))
FILES = sorted((SAMPLES / "reports").glob("*.eml"))


def told(raw: bytes) -> list[dict[str, object]]:
    lines = []
    for f in classify_message(raw):
        line = {name: getattr(f, name) for name in ("recipient", "status", "smtp_code", "cause_detail", "message_id")}
        line |= {"kind": f.kind.value, "permanence": f.permanence.value, "cause": f.cause.value if f.cause else ""}
        lines.append({name: value for name, value in line.items() if value})
    return lines


def test_every_sample_is_expected() -> None:
    assert {file.stem for file in FILES} == set(EXPECTED)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["lf", "crlf", "cr"])
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_sample(file: Path, end: bytes) -> None:
    assert told(file.read_bytes().replace(b"\n", end)) == EXPECTED[file.stem]["findings"]


def sample(name: str) -> bytes:
    return (SAMPLES / "reports" / f"{name}.eml").read_bytes()


def test_what_a_report_tells_beside_its_recipients() -> None:
    finding = classify_message(sample("postfix_unknown"))[0]
    assert finding.source_host == "mx.example.org"
    assert finding.remote_host == "mx.example.com"
    assert finding.mail_from == "bounces@sender.example"
    assert finding.last_attempt_raw.startswith("Tue,  3 Mar 2026 09:04:58")
    assert finding.occurred_at_ms == 1772528700000
    assert finding.diagnostic.startswith("550 5.1.1")
    assert finding.action == "failed"


def test_a_complaint_counts_its_incidents() -> None:
    findings = classify_message(sample("arf"))
    assert {(f.incidents, f.feedback_type, f.sending_ip, f.recovery) for f in findings} == {
        (3, "abuse", "192.0.2.55", "original_rcpt_to")
    }


def test_trust_needs_a_returned_message_that_is_ours() -> None:
    own = Own(domains=frozenset({"sender.example"}))
    assert {f.trust for f in classify_message(sample("qmail"), own)} == {Trust.PLAUSIBLE}
    assert {f.trust for f in classify_message(sample("qmail"))} == {Trust.UNVERIFIED}
    other = Own(domains=frozenset({"other.example"}))
    assert {f.trust for f in classify_message(sample("qmail"), other)} == {Trust.UNVERIFIED}


def test_the_returned_message_never_decides() -> None:
    raw = sample("qmail").replace(b"unknown user", b"try another day").replace(b"550 5.1.1", b"550")
    assert classify_message(raw)[0].cause is Cause.UNDETERMINED


NASTY = {
    "nested": lambda: (
        b"From: a@example.com\n"
        + b"".join(b'Content-Type: multipart/mixed; boundary="b%d"\n\n--b%d\n' % (i, i) for i in range(1000))
        + b"\nhello"
    ),
    "enclosed": lambda: b"From: a@example.com\nContent-Type: message/rfc822\n\n" * 1000 + b"message/delivery-status",
    "parts": lambda: (
        b"From: a@example.com\nContent-Type: multipart/report; boundary=x\n\n" + b"--x\n\nmailbox full\n" * 50_000
    ),
    "headers": lambda: b"From: mailer-daemon@example.com\n" + b"X-A: b\n" * 200_000,
    "folded": lambda: b"Subject: undelivered\n" + b" y\n" * 200_000,
    "addresses": lambda: b"From: mailer-daemon@example.com\nSubject: failure notice\n\n" + b"<a@b.c>:\nx\n\n" * 50_000,
    "at_signs": lambda: b"From: mailer-daemon@example.com\nSubject: failure notice\n\n" + b"a@" * 500_000,
    "markup": lambda: (
        b"From: mailer-daemon@example.com\nSubject: undelivered mail\nContent-Type: text/html\n\n"
        + b"<script>" * 90_000
    ),
    "large": lambda: (
        b"From: mailer-daemon@example.com\nSubject: failure notice\n\n<a@example.com>:\nuser unknown\n\n"
        b"--- Below this line is a copy of the message.\n\n" + b"lorem ipsum\n" * 4_000_000
    ),
    "nul": lambda: sample("exim").replace(b" ", b"\0"),
    "eight_bit": lambda: sample("exim").replace(b" ", b"\xff"),
}


@pytest.mark.parametrize("name", NASTY)
@pytest.mark.timeout(60)
def test_hostile_input_comes_to_an_end(name: str) -> None:
    findings = classify_message(NASTY[name]())
    assert findings
    orjson.dumps(jsonl_lines(name, findings))


def test_a_fifty_megabyte_bounce_is_read() -> None:
    finding = classify_message(NASTY["large"]())[0]
    assert (finding.kind, finding.recipient, finding.cause) == (Kind.BOUNCE, "a@example.com", Cause.MAILBOX_UNKNOWN)


@pytest.mark.parametrize(("raw", "reason"), [(b"", "empty"), (b"\n\n", "empty"), (bytes(range(32)) * 9, "unreadable")])
def test_what_cannot_be_a_message_is_unreadable(raw: bytes, reason: str) -> None:
    with pytest.raises(Unreadable) as caught:
        classify_message(raw)
    assert caught.value.reason == reason


@settings(max_examples=200, deadline=None)  # the first of a process imports flanker
@given(st.sampled_from(FILES), st.integers(0, 3000), st.integers(0, 300), st.binary(max_size=40))
def test_damaged_messages_are_read_all_the_same(file: Path, at: int, length: int, put: bytes) -> None:
    raw = file.read_bytes()
    try:
        findings = classify_message(raw[:at] + put + raw[at + length :])
    except Unreadable:
        return
    assert findings
    orjson.dumps(jsonl_lines("x", findings))


def test_postfix_says_in_words_what_the_reply_answered() -> None:
    raw = (SAMPLES / "reports/postfix_unknown.eml").read_bytes()
    assert [f.stage for f in classify_message(raw)] == ["rcpt"]
    later = raw.replace(b"(in reply to RCPT TO command)", b"(in reply to end of\n    DATA command)")
    assert [f.stage for f in classify_message(later)] == ["end_of_data"]
    other = raw.replace(b"<someone@example.com>", b"<another@example.com>")
    assert [f.stage for f in classify_message(other)] == [""]
