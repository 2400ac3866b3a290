"""An explanation names what decided, where it stands and what gave way, and never differs from the verdict."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailecho.pipeline.classify import Own, classify_message
from mailecho.pipeline.classify.explain import Witness, explain_entry, explain_message, explain_reply
from mailecho.pipeline.classify.reply import classify_reply
from mailecho.pipeline.sources import Rejected, read_delivery
from mailecho.schemas.taxonomy import ADVICE_OF, MEANING_OF, Cause

SAMPLES = sorted((Path(__file__).parent.parent / "samples/reports").glob("*.eml"))
GOOGLE = "gmail-smtp-in.l.google.com"

TWO_FATES = b"""\
From: MAILER-DAEMON@relay.example.org
To: news@sender.example
Subject: Undelivered Mail Returned to Sender
Content-Type: multipart/report; report-type=delivery-status; boundary="b"

--b
Content-Type: text/plain

Two recipients had trouble.

--b
Content-Type: message/delivery-status

Reporting-MTA: dns; relay.example.org

Original-Recipient: rfc822; gone@example.com
Final-Recipient: rfc822; moved@example.net
Action: failed
Status: 5.0.0
Diagnostic-Code: smtp; 550 User unknown

Final-Recipient: rfc822; busy@example.com
Action: delayed
Status: 4.4.1
Diagnostic-Code: smtp; 451 4.4.1 connection timed out

--b
Content-Type: text/rfc822-headers

From: news@sender.example
Message-ID: <m1@sender.example>

--b--
"""


def decided(evidence: tuple[Witness, ...]) -> Witness:
    (witness,) = [w for w in evidence if w.role == "decided"]
    return witness


def test_the_matched_words_are_shown_as_they_were_written() -> None:
    reply = explain_reply("550 5.7.1 <Bob.Smith@Example.com>:  Sorry, USER   Unknown in Straße 5")
    witness = decided(reply.evidence)
    assert witness.matched == "USER Unknown"
    assert witness.span is not None
    assert reply.text[slice(*witness.span)] == "USER Unknown"
    assert (witness.rule_id, witness.rule_file) == ("unknown.user_unknown", "rules/recipient.toml")
    code = next(w for w in reply.evidence if w.source == "code in the reply")
    assert (code.matched, code.role) == ("5.7.1", "overruled")
    assert "overloaded" in code.why


def test_the_host_that_gives_a_code_another_meaning() -> None:
    reply = explain_reply("550 5.7.27 not accepted", host=GOOGLE)
    assert (reply.cause, reply.detail, reply.host_families) == ("auth_failure", "spf", ("google",))
    assert "X.7.27 at google means auth_failure (spf); elsewhere it means sender_rejected (null_mx)" in reply.notes


def test_a_status_that_says_nothing_gives_way_to_the_text() -> None:
    reply = explain_reply("550 User unknown", status="5.0.0")
    assert any(note.startswith("Status 5.0.0 says nothing") for note in reply.notes)


def test_a_status_field_gives_way_to_the_code_in_the_reply() -> None:
    reply = explain_reply("550 5.2.2 over quota", status="5.1.1")
    assert "Status 5.1.1 gave way to 5.2.2, which stands in the reply itself" in reply.notes
    field = next(w for w in reply.evidence if w.source == "Status field")
    assert (field.matched, field.role, field.span) == ("5.1.1", "overruled", None)


def test_a_rule_out_of_its_scope_is_shown_with_its_scope() -> None:
    reply = explain_reply("550 Unknown user someone@example.com")
    outside = next(w for w in reply.evidence if w.role == "out_of_scope")
    assert outside.rule_id == "docomo.filter"
    assert "docomo" in outside.why


def test_phrases_of_one_rule_that_meet_are_shown_as_one() -> None:
    reply = explain_reply("554 5.7.1 Client host [192.0.2.9] blocked using zen.spamhaus.org")
    assert decided(reply.evidence).matched == "zen.spamhaus"
    assert reply.detail == "spamhaus_zen:192.0.2.9"


def test_the_summary_says_it_in_a_sentence() -> None:
    assert explain_reply("550 5.1.1 User unknown").summary == (
        "The mailbox does not exist. The phrase “User unknown” decides, and the code in the reply 5.1.1 agrees."
    )
    gone, busy = explain_message(TWO_FATES)
    assert gone.summary.startswith("A permanent bounce for gone@example.com: the mailbox does not exist")
    assert busy.summary.startswith("A delay for busy@example.com: the receiving server could not be reached")


def test_every_cause_has_words() -> None:
    assert set(MEANING_OF) == set(ADVICE_OF) == set(Cause)


def test_success_and_nothing_known() -> None:
    assert explain_reply("250 2.0.0 OK").cause == ""
    unknown = explain_reply("zzz")
    assert (unknown.cause, unknown.evidence) == ("undetermined", ())
    assert unknown.notes


def test_a_report_of_two_fates() -> None:
    gone, busy = explain_message(TWO_FATES, Own(frozenset({"sender.example"})))
    assert (gone.kind, gone.recipient, gone.recipient_from) == ("bounce", "gone@example.com", "Original-Recipient")
    assert "message/delivery-status" in gone.kind_why
    assert decided(gone.replies[0].evidence).matched == "User unknown"
    assert (busy.kind, busy.recipient_from, busy.cause) == ("delay", "Final-Recipient", "network")
    assert (gone.trust, "domain of ours" in gone.trust_why) == ("plausible", True)


def test_the_words_of_the_report_where_the_reply_is_mute() -> None:
    message = TWO_FATES.replace(b"550 User unknown", b"x").replace(
        b"Two recipients had trouble.", b"<gone@example.com>: mailbox full"
    )
    one = message.replace(
        message[message.index(b"Final-Recipient: rfc822; busy") : message.index(b"--b\nContent-Type: text/rfc")], b""
    )
    (finding,) = explain_message(one)
    assert finding.cause == "mailbox_full"
    assert "told too little" in finding.notes[0]
    assert [reply.read for reply in finding.replies][-1] == "reply"


def test_a_report_in_a_forwarded_message() -> None:
    outer = b"From: a@example.com\nSubject: Fwd\nContent-Type: multipart/mixed; boundary=o\n\n--o\n\nsee\n--o\n"
    message = outer + b"Content-Type: message/rfc822\n\n" + TWO_FATES + b"\n--o--\n"
    assert explain_message(message)[0].kind_why.count("inside a forwarded message") == 1


@pytest.mark.parametrize("file", SAMPLES, ids=lambda file: file.stem)
def test_explanations_say_what_the_classifier_says(file: Path) -> None:
    raw = file.read_bytes()
    explained = explain_message(raw)
    findings = classify_message(raw)
    assert [(e.kind, e.recipient, e.cause, e.rule_id, e.status, e.permanence) for e in explained] == [
        (f.kind.value, f.recipient, f.cause.value if f.cause else "", f.rule_id, f.status, f.permanence.value)
        for f in findings
    ]
    assert all(e.kind_why for e in explained)
    assert orjson.dumps([asdict(e) for e in explained])


def test_a_log_entry_is_judged_as_its_adapter_judged_it() -> None:
    line = (
        b"Mar  3 09:00:00 mx1 postfix/smtp[77]: 4F1A2B3C4D: to=<a@example.com>, relay=mx.example.com[192.0.2.1]:25, "
        b"delay=1, delays=0/0/0/1, dsn=5.1.1, status=bounced (host mx.example.com[192.0.2.1] said: 550 5.1.1 "
        b"<a@example.com>: User unknown (in reply to RCPT TO command))\n"
    )
    (finding,) = read_delivery(line, source="postfix", received_at_ms=1_772_600_000_000)
    assert not isinstance(finding, Rejected)
    explained = explain_entry(finding)
    assert explained.replies[0].rule_id == finding.rule_id != ""
    assert decided(explained.replies[0].evidence).matched == "User unknown"


@given(st.text(max_size=300), st.sampled_from(["", "5.0.0", "5.1.1", "4.2.2"]), st.sampled_from(["", GOOGLE]))
def test_any_text_is_explained_as_it_is_classified(text: str, status: str, host: str) -> None:
    verdict = classify_reply(text, status=status, host=host)
    reply = explain_reply(text, status=status, host=host)
    assert (reply.cause, reply.rule_id) == (verdict.cause.value if verdict.cause else "", verdict.rule_id)
    for witness in reply.evidence:
        if witness.span:
            assert 0 <= witness.span[0] < witness.span[1] <= len(reply.text)
    if reply.evidence:
        assert decided(reply.evidence).rule_id == verdict.rule_id
