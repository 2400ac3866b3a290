"""Complaints and unsubscriptions in the forms that feeds use, each written after its documentation."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailecho.pipeline.classify import classify_message
from mailecho.pipeline.finding import Finding
from mailecho.pipeline.trust import Keyring, Own
from mailecho.schemas.taxonomy import Kind

RETURNED = """\
From: News <news@sender.example>
{to}Subject: Spring news
Message-ID: <spring-1@sender.example>
Date: Fri, 20 Nov 2026 09:00:00 +0000

User unknown, mailbox full, out of office: words of the message decide nothing.
"""


def returned(to: str = "To: redacted@isp.example\n") -> str:
    return RETURNED.format(to=to)


def arf(
    sender: str = "fbl@isp.example",
    *,
    fields: str,
    to: str = "To: redacted@isp.example\n",
    words: str = "",
    head: str = "",
) -> str:
    return (
        f"From: {sender}\nTo: fbl@sender.example\nSubject: Abuse report\n{head}MIME-Version: 1.0\n"
        'Content-Type: multipart/report; report-type=feedback-report; boundary="b1"\n\n'
        f"--b1\nContent-Type: text/plain\n\n{words or 'This is a complaint.'}\n\n"
        f"--b1\nContent-Type: message/feedback-report\n\n{fields}\n"
        f"--b1\nContent-Type: message/rfc822\n\n{returned(to)}\n--b1--\n"
    )


def xarf_mail(report: dict[str, object], *, attached: bool) -> str:
    text = json.dumps(report, indent=1)
    head = (
        "From: abuse@reporter.example\nTo: fbl@sender.example\nSubject: Spam report\nX-XARF: PLAIN\nMIME-Version: 1.0\n"
    )
    if not attached:
        return f"{head}Content-Type: application/json\n\n{text}\n"
    data = base64.encodebytes(text.encode()).decode()
    return (
        f"{head}Content-Type: multipart/mixed; boundary=b1\n\n--b1\nContent-Type: text/plain\n\nA report is attached.\n"
        f'--b1\nContent-Type: application/json; name="xarf.json"\nContent-Transfer-Encoding: base64\n\n{data}\n--b1--\n'
    )


SNAKE = {
    "xarf_version": "4.0.0",
    "report_id": "0f6bd1ac-3c6c-4f0b-9a43-8a3f5a1f2d11",
    "timestamp": "2026-11-20T10:00:00Z",
    "reporter": {"org": "Reporter", "contact": "abuse@reporter.example", "domain": "reporter.example"},
    "source_identifier": "192.0.2.55",
    "category": "messaging",
    "type": "spam",
    "protocol": "smtp",
    "smtp_from": "bounces@sender.example",
    "evidence": [
        {
            "content_type": "message/rfc822",
            "payload": base64.b64encode(returned("To: user@example.com\n").encode()).decode(),
        }
    ],
}
CAPITALS = {
    "Version": "4",
    "ReporterInfo": {"ReporterOrg": "Reporter", "ReporterOrgEmail": "abuse@reporter.example"},
    "Disclosure": True,
    "Report": {
        "ReportClass": "Content",
        "ReportType": "Spam",
        "Date": "2026-11-20T10:00:00Z",
        "SourceIp": "192.0.2.55",
        "SmtpMailFromAddress": "bounces@sender.example",
        "SmtpRcptToAddress": "user@example.com",
        "Samples": [{"ContentType": "message/rfc822", "Base64Encoded": False, "Payload": returned()}],
    },
}
SES = {
    "notificationType": "Complaint",
    "complaint": {
        "userAgent": "Feed/1",
        "complainedRecipients": [{"emailAddress": "user@example.com"}],
        "complaintFeedbackType": "abuse",
        "arrivalDate": "2026-11-20T10:00:00.000Z",
        "timestamp": "2026-11-20T10:00:00.000Z",
    },
    "mail": {
        "source": "bounces@sender.example",
        "sourceIp": "192.0.2.55",
        "messageId": "0101",
        "headers": [
            {"name": "Message-ID", "value": "<spring-1@sender.example>"},
            {"name": "To", "value": "user@example.com"},
        ],
    },
}


def ses_mail(notice: dict[str, object], *, wrapped: bool) -> str:
    text = json.dumps({"Type": "Notification", "Message": json.dumps(notice)} if wrapped else notice)
    return (
        f"From: no-reply@sns.amazonaws.com\nTo: ops@sender.example\n"
        f"Subject: AWS Notification Message\n\n{text}\n\n--\nfooter\n"
    )


USER = "user@example.com"
ABUSE = "Feedback-Type: abuse\nUser-Agent: Feed/1.0\nVersion: 1\n"

#: name -> (message, kind, feedback type, recipients, recovery)
COMPLAINTS: dict[str, tuple[str, Kind, str, list[str], str]] = {
    "arf": (arf(fields=f"{ABUSE}Original-Rcpt-To: <{USER}>\n"), Kind.COMPLAINT, "abuse", [USER], "original_rcpt_to"),
    "arf_redacted": (arf(fields=ABUSE), Kind.COMPLAINT, "abuse", ["redacted@isp.example"], "unresolved"),
    "arf_nothing": (arf(fields=ABUSE, to=""), Kind.COMPLAINT, "abuse", [""], "unresolved"),
    "arf_fraud": (
        arf(fields=f"Feedback-Type: fraud\nVersion: 1\nOriginal-Rcpt-To: {USER}\n"),
        Kind.COMPLAINT,
        "fraud",
        [USER],
        "original_rcpt_to",
    ),
    "not_spam": (
        arf(fields=f"Feedback-Type: not-spam\nVersion: 1\nOriginal-Rcpt-To: {USER}\n"),
        Kind.NOT_SPAM,
        "not-spam",
        [USER],
        "original_rcpt_to",
    ),
    "opt_out": (
        arf(fields=f"Feedback-Type: opt-out\nVersion: 0.1\nRemoval-Recipient: {USER}\n"),
        Kind.UNSUBSCRIBE,
        "opt-out",
        [USER],
        "removal_recipient",
    ),
    "yahoo": (
        arf(
            "Yahoo! Mail AntiSpam Feedback <feedback@arf.mail.yahoo.com>",
            fields=f"Feedback-Type: abuse\nUser-Agent: Yahoo!-Mail-Feedback/2.0\nVersion: 0.1\n"
            f"Original-Rcpt-To: {USER}\n"
            "Received-Date: Fri, 20 Nov 2026 09:01:00 +0000\nReported-Domain: sender.example\n",
        ),
        Kind.COMPLAINT,
        "abuse",
        [USER],
        "original_rcpt_to",
    ),
    "aol_legacy": (
        arf(
            "scomp@aol.net",
            fields="Feedback-Type: abuse\nVersion: 0.1\nUser-Agent: AOL SComp\nSource-IP: 192.0.2.55\n"
            "Redacted-Address: redacted\nRedacted-Address: redacted@\n",
            to="To: redacted@aol.example\n",
        ),
        Kind.COMPLAINT,
        "abuse",
        ["redacted@aol.example"],
        "unresolved",
    ),
    "validity_several": (
        arf(
            "feedbackloop@feedback.isp.example",
            head="X-Rp-Fbl: type=arf; subscriptionID=12345\n",
            fields="Feedback-Type: abuse\nUser-Agent: ReturnPathFBL/2.0\nVersion: 1\n"
            "Abuse-Type: complaint\nSource: Isp\n"
            "Subscription-Link: https://fbl.example/subscriptions/12345\n"
            "Original-Rcpt-To: <a@isp.example>\nOriginal-Rcpt-To: <b@isp.example>\n",
        ),
        Kind.COMPLAINT,
        "abuse",
        ["a@isp.example", "b@isp.example"],
        "original_rcpt_to",
    ),
    "validity_hashed": (
        arf(
            "feedbackloop@feedback.isp.example",
            fields=f"{ABUSE}Original-Rcpt-To: <5f4dcc3b5aa765d61d8327deb882cf99@isp.example>\n",
            to="",
        ),
        Kind.COMPLAINT,
        "abuse",
        ["5f4dcc3b5aa765d61d8327deb882cf99@isp.example"],
        "unresolved",
    ),
    "comcast": (
        arf(
            "feedbackloop@comcastfbl.senderscore.net",
            fields="Feedback-Type: abuse\nUser-Agent: comcast Feedback Loop\nVersion: 0.1\n"
            "Original-Message-ID: <spring-1@sender.example>\n",
            to="To: redacted@comcast.example\n",
        ),
        Kind.COMPLAINT,
        "abuse",
        ["redacted@comcast.example"],
        "unresolved",
    ),
    "ses_relayed": (
        arf(
            "complaints@email-abuse.amazonses.com",
            fields=f"{ABUSE}Original-Rcpt-To: {USER}\nOriginal-Mail-From: <0101-1@mail.sender.example>\n",
        ),
        Kind.COMPLAINT,
        "abuse",
        [USER],
        "original_rcpt_to",
    ),
    "microsoft_2026": (
        arf(
            "staff@hotmail.com",
            fields="Feedback-Type: abuse\nUser-Agent: JMRP/2\nVersion: 1\nSource-IP: 192.0.2.55\n"
            "Authentication-Results: isp.example; dkim=pass header.d=sender.example\n",
            to="To: x@outlook.example\n",
        ),
        Kind.COMPLAINT,
        "abuse",
        ["x@outlook.example"],
        "unresolved",
    ),
    "microsoft_before": (
        "From: staff@hotmail.com\nTo: fbl@sender.example\nSubject: complaint about message from 192.0.2.55\n"
        "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b1\n\n--b1\nContent-Type: message/rfc822\n\n"
        f"X-HmXmrOriginalRecipient: <{USER}>\n{returned()}\n--b1--\n",
        Kind.COMPLAINT,
        "abuse",
        [USER],
        "original_recipient_header",
    ),
    "part_without_its_type": (
        "From: fbl@isp.example\nTo: fbl@sender.example\nSubject: Abuse\nMIME-Version: 1.0\n"
        "Content-Type: multipart/mixed; boundary=b1\n\n--b1\nContent-Type: text/plain\n\nA complaint.\n"
        f"--b1\nContent-Type: text/plain\n\n{ABUSE}Original-Rcpt-To: {USER}\n"
        f"--b1\nContent-Type: message/rfc822\n\n{returned()}\n--b1--\n",
        Kind.COMPLAINT,
        "abuse",
        [USER],
        "original_rcpt_to",
    ),
    "cfbl_arf": (
        arf(
            fields=f"{ABUSE}Source-IP: 192.0.2.55\n",
            to="CFBL-Address: fbl@sender.example; report=arf\nCFBL-Feedback-ID: 7\n",
        ),
        Kind.COMPLAINT,
        "abuse",
        [""],
        "unresolved",
    ),
    "forwarded": (
        "From: postmaster@sender.example\nTo: fbl@sender.example\nSubject: Fwd: Abuse report\nMIME-Version: 1.0\n"
        "Content-Type: multipart/mixed; boundary=o\n\n--o\nContent-Type: text/plain\n\nSee below.\n"
        f"--o\nContent-Type: message/rfc822\n\n{arf(fields=f'{ABUSE}Original-Rcpt-To: {USER}{chr(10)}')}\n--o--\n",
        Kind.COMPLAINT,
        "abuse",
        [USER],
        "original_rcpt_to",
    ),
    "spamcop": (
        "From: SpamCop reporter <7123@reports.spamcop.net>\nTo: abuse@sender.example\n"
        "Subject: [SpamCop (192.0.2.55) id:7123]Spring\n"
        "X-SpamCop-sourceip: 192.0.2.55\n\n[ SpamCop V5 ]\n"
        "This message is brief for your comfort.\n\n[ Offending message ]\n"
        f"Return-Path: <bounces@sender.example>\n{returned('To: x')}\n",
        Kind.COMPLAINT,
        "abuse",
        [""],
        "unresolved",
    ),
    "xarf_snake_attached": (xarf_mail(SNAKE, attached=True), Kind.COMPLAINT, "abuse", [USER], "returned_to"),
    "xarf_snake_body": (xarf_mail(SNAKE, attached=False), Kind.COMPLAINT, "abuse", [USER], "returned_to"),
    "xarf_capitals": (xarf_mail(CAPITALS, attached=True), Kind.COMPLAINT, "abuse", [USER], "original_rcpt_to"),
    "xarf_lines": (
        "From: abuse@reporter.example\nTo: abuse@sender.example\n"
        "Subject: abuse report about 192.0.2.55\nX-ARF: Yes\nMIME-Version: 1.0\n"
        "Content-Type: multipart/mixed; boundary=b1\n\n--b1\n"
        "Content-Type: text/plain; charset=utf-8\n\nSpam from you.\n"
        "--b1\nContent-Type: text/plain; charset=utf-8; name=report.txt\n\n---\nReported-From: abuse@reporter.example\n"
        "Category: abuse\nReport-Type: spam\nSource: 192.0.2.55\nSource-Type: ip-address\n"
        "Date: Fri, 20 Nov 2026 09:00:00 +0000\n"
        f"--b1\nContent-Type: message/rfc822\n\n{returned()}\n--b1--\n",
        Kind.COMPLAINT,
        "abuse",
        ["redacted@isp.example"],
        "unresolved",
    ),
    "ses_notification": (ses_mail(SES, wrapped=False), Kind.COMPLAINT, "abuse", [USER], "original_rcpt_to"),
    "ses_notification_wrapped": (ses_mail(SES, wrapped=True), Kind.COMPLAINT, "abuse", [USER], "original_rcpt_to"),
    "ses_notification_of_two": (
        ses_mail(
            {
                **SES,
                "complaint": {"complainedRecipients": [{"emailAddress": USER}, {"emailAddress": "b@example.com"}]},
            },
            wrapped=True,
        ),
        Kind.COMPLAINT,
        "other",
        [""],
        "unresolved",
    ),
}


def check(found: list[Finding], kind: Kind, feedback_type: str, recipients: list[str], recovery: str) -> None:
    assert {f.kind for f in found} == {kind}
    assert [f.recipient for f in found] == recipients
    assert {(f.feedback_type, f.recovery) for f in found} == {(feedback_type, recovery)}


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"], ids=["lf", "crlf", "cr"])
@pytest.mark.parametrize("name", COMPLAINTS)
def test_complaint(name: str, end: bytes) -> None:
    text, *wanted = COMPLAINTS[name]
    found = classify_message(text.encode().replace(b"\n", end))
    check(found, *wanted)  # type: ignore[arg-type]
    assert {f.message_id for f in found} <= {"spring-1@sender.example", ""}


def test_what_a_complaint_tells_beside_its_recipient() -> None:
    for name in ("xarf_snake_attached", "xarf_capitals", "ses_notification"):
        found = classify_message(COMPLAINTS[name][0].encode())[0]
        assert (found.sending_ip, found.mail_from) == ("192.0.2.55", "bounces@sender.example"), name
        assert found.message_id == "spring-1@sender.example", name
    comcast = arf(fields=f"{ABUSE}Original-Message-ID: <other@sender.example>\nIncidents: 3\n", to="").replace(
        "Message-ID: <spring-1@sender.example>\n", ""
    )
    found = classify_message(comcast.encode())[0]
    assert (found.message_id, found.incidents) == ("other@sender.example", 3)


def test_xarf_about_something_else_is_no_complaint() -> None:
    attack = {**SNAKE, "category": "connection", "type": "login_attack"}
    assert classify_message(xarf_mail(attack, attached=True).encode())[0].kind is Kind.NOT_FEEDBACK


@pytest.mark.parametrize(
    "text", ['{"xarf_version": ' + "[" * 100_000, '{"xarf_version": "4", "evidence": [3, null]}', "{"]
)
def test_broken_xarf_is_read_all_the_same(text: str) -> None:
    mail = f"From: a@reporter.example\nX-XARF: PLAIN\nContent-Type: application/json\n\n{text}\n"
    assert classify_message(mail.encode())[0].kind is Kind.NOT_FEEDBACK


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(COMPLAINTS)), st.integers(0, 1500), st.integers(0, 200), st.binary(max_size=40))
def test_damaged_complaints_are_read_all_the_same(name: str, at: int, length: int, put: bytes) -> None:
    raw = COMPLAINTS[name][0].encode()
    own = Own(domains=frozenset({"sender.example"}), keys=Keyring({1: b"k" * 32}), tokens_required=True)
    assert classify_message(raw[:at] + put + raw[at + length :], own)


# --- unsubscriptions ------------------------------------------------------------------------------------------


def letter(subject: str, *, to: str = "unsubscribe@sender.example", body: str = "", head: str = "") -> bytes:
    return f"From: Some One <{USER}>\nTo: {to}\nSubject: {subject}\n{head}\n{body}\n".encode()


UNSUBSCRIBE = {
    "gmail": letter("unsubscribe", body="This message was automatically generated by a mail program."),
    "token": letter("unsubscribe:7f.3a", to="leave-7f3a@lists.sender.example"),
    "apple": letter("Unsubscribe", to="news@sender.example", head="X-Apple-Unsubscribe: true\n"),
    "empty": letter("", to="unsubscribe+7f3a@sender.example"),
    "de": letter("Abmelden"),
    "fr": letter("=?utf-8?q?D=C3=A9sinscription?="),
    "es": letter("Darme de baja"),
    "it": letter("Disiscrizione"),
    "nl": letter("Afmelden"),
    "pl": letter("Wypisz mnie"),
    "ru": letter("Отписаться"),
    "zh": letter("退订"),
    "ja": letter("配信停止"),
    "to_the_sender": letter("Unsubscribe", to="news@sender.example"),
}


@pytest.mark.parametrize("name", UNSUBSCRIBE)
def test_an_unsubscribe_mail_is_about_its_writer(name: str) -> None:
    check(classify_message(UNSUBSCRIBE[name]), Kind.UNSUBSCRIBE, "opt-out", [USER], "sender")


@pytest.mark.parametrize(
    "raw",
    [
        letter("Unsubscribe", to="news@sender.example", body="I tried this link for weeks and it fails. " * 9),
        letter("How do I unsubscribe from this list?", to="help@sender.example", body="Please tell me."),
        letter("Remove the old printer from room 3", to="facilities@sender.example", body="It is broken."),
        letter("unsubscribe", head="List-Id: <talk.lists.example>\n", to="talk@lists.example"),
        letter("Leave of absence", to="hr@sender.example", body="I will be away."),
    ],
)
def test_a_letter_about_it_is_no_unsubscription(raw: bytes) -> None:
    assert classify_message(raw)[0].kind in (Kind.NOT_FEEDBACK, Kind.AUTO_REPLY)
