"""Which evidence decides when text, codes and host disagree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailecho.pipeline.classify.codes import codes_in, joined, status_of
from mailecho.pipeline.classify.reply import RULES_VERSION, classify_reply, gather
from mailecho.schemas.taxonomy import Cause, Permanence

GOOGLE = "gmail-smtp-in.l.google.com"
MICROSOFT = "example-com.mail.protection.outlook.com"


@pytest.mark.parametrize(
    ("text", "host", "cause", "detail"),
    [
        # text decides for overloaded codes
        ("550 5.7.1 Message rejected as spam", "", Cause.SPAM_CONTENT, ""),
        ("550 5.7.1 Relay access denied", "", Cause.RELAY_DENIED, ""),
        ("550 5.2.1 user unknown", "", Cause.MAILBOX_UNKNOWN, ""),
        ("550 5.0.0 mailbox full", "", Cause.MAILBOX_FULL, ""),
        # a precise code decides where the text says little
        ("550 5.1.1 rejected", "", Cause.MAILBOX_UNKNOWN, ""),
        ("552 5.2.2 sorry", "", Cause.MAILBOX_FULL, ""),
        # the host decides what its code means
        ("550 5.7.27 not accepted", GOOGLE, Cause.AUTH_FAILURE, "spf"),
        ("550 5.7.27 not accepted", "", Cause.SENDER_REJECTED, "null_mx"),
        ("550 5.7.29 not accepted", GOOGLE, Cause.TLS_REQUIRED, ""),
        ("550 5.7.30 not accepted", GOOGLE, Cause.AUTH_FAILURE, "dkim"),
        ("550 5.4.1 Recipient address rejected: Access denied.", MICROSOFT, Cause.MAILBOX_UNKNOWN, ""),
        ("550 5.7.515 no", MICROSOFT, Cause.AUTH_FAILURE, "multiple"),
        # the sender's address is not the recipient's
        ("550 5.1.8 <a@example.com>: Sender address rejected: Domain not found", "", Cause.SENDER_REJECTED, ""),
        # words in addresses are no words
        ("550 <spam-virus-quota@example.com> user unknown", "", Cause.MAILBOX_UNKNOWN, ""),
        # what is listed
        (
            "554 5.7.1 Client host [2001:db8::7] blocked using zen.spamhaus.org",
            "",
            Cause.BLOCKLIST,
            "spamhaus_zen:2001:db8::7",
        ),
        ("550 5.7.26 SPF and DKIM did not pass", "", Cause.AUTH_FAILURE, "multiple"),
        ("550 5.7.1 fails DMARC", "", Cause.AUTH_FAILURE, "dmarc"),
    ],
)
def test_precedence(text: str, host: str, cause: Cause, detail: str) -> None:
    verdict = classify_reply(text, host=host)
    assert (verdict.cause, verdict.detail) == (cause, detail)


def test_the_code_in_the_text_counts_before_the_status_field() -> None:
    verdict = classify_reply("550 5.2.2 over quota", status="5.1.1")
    assert (verdict.status, verdict.cause) == ("5.2.2", Cause.MAILBOX_FULL)
    verdict = classify_reply("550 no", status="5.1.1")
    assert (verdict.status, verdict.cause, verdict.smtp_code) == ("5.1.1", Cause.MAILBOX_UNKNOWN, 550)


@pytest.mark.parametrize(
    ("text", "status", "permanence"),
    [
        ("550 5.1.1 no", "", Permanence.PERMANENT),
        ("452 4.2.2 full", "", Permanence.TRANSIENT),
        ("452 full", "5.0.0", Permanence.TRANSIENT),
        ("mailbox full", "", Permanence.TRANSIENT),
        ("user unknown", "", Permanence.PERMANENT),
        ("something", "", Permanence.UNKNOWN),
    ],
)
def test_permanence_is_the_class_of_the_code_that_decided(text: str, status: str, permanence: Permanence) -> None:
    assert classify_reply(text, status=status).permanence is permanence


@pytest.mark.parametrize(
    ("text", "code", "status", "shown"),
    [
        ("250 2.0.0 OK id=1abc", 0, "", (250, "2.0.0")),
        ("250 OK, spam score 1.2 of 5, mailbox full tomorrow", 0, "", (250, "")),
        ("queued as 4F1A", 250, "2.0.0", (250, "2.0.0")),
        ("delivered to mailbox", 0, "2.1.5", (0, "2.1.5")),
    ],
)
def test_a_success_has_no_cause(text: str, code: int, status: str, shown: tuple[int, str]) -> None:
    verdict = classify_reply(text, smtp_code=code, status=status)
    assert verdict.cause is None
    assert (verdict.smtp_code, verdict.status) == shown


def test_no_evidence_is_undetermined() -> None:
    verdict = classify_reply("zzz")
    assert (verdict.cause, verdict.confidence, verdict.rule_id) == (Cause.UNDETERMINED, 0.0, "")


def test_the_stage_is_read_from_the_text() -> None:
    assert classify_reply("550 no (in reply to RCPT TO command)").stage == "rcpt"
    assert classify_reply("550 no (in reply to end of DATA command)").stage == "end_of_data"
    assert classify_reply("550 no", stage="mail").stage == "mail"


def test_multi_line_replies_are_joined() -> None:
    text = "550-5.1.1 The email account that you tried\n550-5.1.1 to reach does not\n550 5.1.1 exist. Learn more"
    assert joined(text) == "550-5.1.1 The email account that you tried to reach does not exist. Learn more"
    assert classify_reply(text).cause is Cause.MAILBOX_UNKNOWN


@pytest.mark.parametrize(
    ("text", "code", "status"),
    [
        ("550 5.1.1 x", 550, "5.1.1"),
        ("host a[192.0.2.1] said: 550-5.7.1 x", 550, "5.7.1"),
        ("#550 4.4.7 QUEUE.Expired; message expired ##", 550, "4.4.7"),
        ("unknown user (#5.1.1)", 0, "5.1.1"),
        ("listed at 5.1.1.1", 0, ""),
        ("Exim 4.92.3 says hello", 0, ""),
        ("552 message size exceeds 5500000 bytes", 552, ""),
        ("5.7.515 no", 0, "5.7.515"),
    ],
)
def test_codes_in_text(text: str, code: int, status: str) -> None:
    assert codes_in(text) == (code, status)


def test_status_fields() -> None:
    assert status_of("5.1.1 (bad destination mailbox address)") == "5.1.1"
    assert status_of("5.1") == "5.1.0"
    assert status_of("none") == ""


def test_evidence_has_the_deciding_rule_first() -> None:
    evidence = gather("554 5.7.1 blocked using zen.spamhaus.org: access denied")
    assert evidence[0].rule.id == "bl.spamhaus"
    assert [e.rank for e in evidence] == sorted(e.rank for e in evidence)


def test_the_rules_have_a_version() -> None:
    assert RULES_VERSION


@given(st.text(max_size=400), st.integers(0, 999), st.text(max_size=20))
def test_any_text_gives_a_verdict(text: str, code: int, status: str) -> None:
    verdict = classify_reply(text, smtp_code=code, status=status, host=text[:20], stage=status)
    assert 0 <= verdict.confidence <= 1


@pytest.mark.parametrize(
    ("reply", "detail"),
    [
        ("554 Client host [192.0.2.1] blocked using zen.spamhaus.org", "spamhaus_zen:192.0.2.1"),
        (
            "host mx.example [192.0.2.7] said: 554 5.7.1 blocked, https://www.spamhaus.org/query/ip/192.0.2.1",
            "spamhaus_zen:192.0.2.1",
        ),
        ("host mx.example[192.0.2.7] said: 554 5.7.1 blocked by zen.spamhaus.org", "spamhaus_zen"),
        ("553 5.3.0 x DNSBL:ATTRBL 521< 192.0.2.1 >_is_blocked.", "att_rbl:192.0.2.1"),
        ("550 5.7.1 Domain shop.example is listed in dbl.spamhaus.org", "spamhaus_dbl:shop.example"),
        (
            "554 see https://www.spamhaus.org/query/domain/shop.example dbl.spamhaus.org",
            "spamhaus_dbl:shop.example",
        ),
        ("550 5.7.1 URL host www.shop.example listed on multi.surbl.org", "surbl:www.shop.example"),
        ("550 message contains a link <http://shop.example> on multi.uribl.com", "uribl:shop.example"),
        ("550 5.7.1 blocked by multi.uribl.com", "uribl"),
    ],
)
def test_what_a_blocklist_lists(reply: str, detail: str) -> None:
    verdict = classify_reply(reply)
    assert (verdict.cause, verdict.detail) == (Cause.BLOCKLIST, detail)
