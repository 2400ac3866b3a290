"""Mailed reports as the demo's receivers would send them: made up here, in the formats of several MTAs."""

from __future__ import annotations

from dataclasses import dataclass
from email.utils import formatdate


@dataclass(frozen=True, slots=True)
class Sent:
    """The message of ours that a report is about. `at` is epoch seconds UTC."""

    recipient: str
    message_id: str
    sender: str
    subject: str
    ip: str
    campaign: str
    remote_host: str
    at: float


def _returned(sent: Sent) -> str:
    return (
        f"Return-Path: <{sent.sender}>\n"
        f"Received: from mta1.example.net ([{sent.ip}]) by {sent.remote_host}; {formatdate(sent.at)}\n"
        f"From: Example Shop <news@example.com>\nTo: <{sent.recipient}>\nSubject: {sent.subject}\n"
        f"Date: {formatdate(sent.at)}\nMessage-ID: <{sent.message_id}>\nX-Campaign: {sent.campaign}\n"
        f"List-Unsubscribe: <https://example.com/unsubscribe>\n"
    )


def _head(sender: str, to: str, subject: str, at: float, content_type: str, extra: str = "") -> str:
    return (
        f"From: {sender}\nTo: <{to}>\nSubject: {subject}\nDate: {formatdate(at)}\n"
        f"MIME-Version: 1.0\n{extra}Content-Type: {content_type}\n\n"
    )


def _report(sent: Sent, kind: str, sender: str, subject: str, text: str, fields: str, extra: str = "") -> bytes:
    """A multipart/report (RFC 6522) of a kind: text, machine-readable part, returned headers."""
    at = sent.at + 20
    boundary = f"=_report_{int(at)}"
    content_type = f'multipart/report; report-type={kind}; boundary="{boundary}"'
    body = (
        f"--{boundary}\nContent-Type: text/plain; charset=us-ascii\n\n{text}\n"
        f"--{boundary}\nContent-Type: message/{kind}\n\n{fields}\n"
        f"--{boundary}\nContent-Type: message/rfc822\n\n{_returned(sent)}\n--{boundary}--\n"
    )
    return _wire(_head(sender, sent.sender, subject, at, content_type, extra) + body)


def _dsn(sent: Sent, sender: str, subject: str, text: str, fields: str) -> bytes:
    return _report(sent, "delivery-status", sender, subject, text, fields, "Auto-Submitted: auto-replied\n")


def _wire(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode()


def _dsn_fields(sent: Sent, mta: str, action: str, status: str, diagnostic: str) -> str:
    return (
        f"Reporting-MTA: dns; {mta}\nArrival-Date: {formatdate(sent.at)}\n\n"
        f"Final-Recipient: rfc822; {sent.recipient}\nAction: {action}\nStatus: {status}\n"
        f"Remote-MTA: dns; {sent.remote_host}\nDiagnostic-Code: smtp; {diagnostic}\n"
    )


def postfix_bounce(sent: Sent, status: str, diagnostic: str) -> bytes:
    """A Postfix bounce (RFC 3464)."""
    text = (
        "This is the mail system at host relay.example.org.\n\n"
        "I'm sorry to have to inform you that your message could not\n"
        "be delivered to one or more recipients. It's attached below.\n\n"
        f"<{sent.recipient}>: host {sent.remote_host} said: {diagnostic} (in reply to RCPT TO command)\n"
    )
    fields = _dsn_fields(sent, "relay.example.org", "failed", status, diagnostic)
    sender = "MAILER-DAEMON@relay.example.org (Mail Delivery System)"
    return _report(
        sent,
        kind="delivery-status",
        sender=sender,
        subject="Undelivered Mail Returned to Sender",
        text=text,
        fields=fields,
    )


def exchange_bounce(sent: Sent, status: str, diagnostic: str) -> bytes:
    """A bounce as Exchange words it."""
    text = (
        "Delivery has failed to these recipients or groups:\n\n"
        f"{sent.recipient}\nYour message couldn't be delivered.\n\n"
        f"Diagnostic information for administrators:\n\nRemote Server returned '{diagnostic}'\n"
    )
    fields = _dsn_fields(sent, "EX01.corp.example.org", "failed", status, diagnostic)
    sender = "Microsoft Outlook <postmaster@example.org>"
    return _dsn(sent, sender, f"Undeliverable: {sent.subject}", text, fields)


def delay_notice(sent: Sent) -> bytes:
    """A warning that the reporter still tries (RFC 3464, Action: delayed)."""
    diagnostic = "451 4.4.1 connection timed out"
    text = f"Your message to <{sent.recipient}> could not be delivered yet. It will be retried for 4 days.\n"
    fields = _dsn_fields(sent, "relay.example.org", "delayed", "4.4.1", diagnostic)
    sender = "MAILER-DAEMON@relay.example.org (Mail Delivery System)"
    return _report(
        sent,
        kind="delivery-status",
        sender=sender,
        subject="Delayed Mail (still being retried)",
        text=text,
        fields=fields,
    )


def exim_bounce(sent: Sent, _status: str, diagnostic: str) -> bytes:
    """A bounce of Exim without a machine-readable part."""
    text = (
        "This message was created automatically by mail delivery software.\n\n"
        "A message that you sent could not be delivered to one or more of its\n"
        "recipients. This is a permanent error. The following address(es) failed:\n\n"
        f"  {sent.recipient}\n    SMTP error from remote mail server after RCPT TO:<{sent.recipient}>:\n"
        f"    host {sent.remote_host}: {diagnostic}\n\n"
        "------ This is a copy of the message, including all the headers. ------\n\n"
    )
    subject = "Mail delivery failed: returning message to sender"
    extra = f"X-Failed-Recipients: {sent.recipient}\nAuto-Submitted: auto-replied\n"
    sender = "Mail Delivery System <Mailer-Daemon@host.example.org>"
    return _wire(_head(sender, sent.sender, subject, sent.at + 15, "text/plain", extra) + text + _returned(sent))


def qmail_bounce(sent: Sent, _status: str, diagnostic: str) -> bytes:
    """A bounce in qmail's QSBMF."""
    text = (
        "Hi. This is the qmail-send program at mail.example.org.\n"
        "I'm afraid I wasn't able to deliver your message to the following addresses.\n"
        "This is a permanent error; I've given up. Sorry it didn't work out.\n\n"
        f"<{sent.recipient}>:\nRemote host said: {diagnostic}\n\n"
        "--- Below this line is a copy of the message.\n\n"
    )
    sender = "MAILER-DAEMON@mail.example.org"
    return _wire(_head(sender, sent.sender, "failure notice", sent.at + 9, "text/plain") + text + _returned(sent))


#: The formats in which a hard bounce may come.
BOUNCES = (postfix_bounce, exchange_bounce, exim_bounce, qmail_bounce)


def complaint(sent: Sent) -> bytes:
    """A complaint in the Abuse Reporting Format (RFC 5965)."""
    domain = sent.recipient.rpartition("@")[2]
    text = f"This is an email abuse report for a message received from IP {sent.ip} on {formatdate(sent.at)}.\n"
    fields = (
        f"Feedback-Type: abuse\nUser-Agent: Feedback/1.0\nVersion: 1\nSource-IP: {sent.ip}\n"
        f"Original-Mail-From: <{sent.sender}>\nOriginal-Rcpt-To: <{sent.recipient}>\n"
        f"Arrival-Date: {formatdate(sent.at)}\nReported-Domain: example.com\n"
    )
    return _report(
        sent,
        kind="feedback-report",
        sender=f"Feedback Loop <fbl@{domain}>",
        subject=sent.subject,
        text=text,
        fields=fields,
    )


def auto_reply(sent: Sent) -> bytes:
    """An absence note (RFC 3834)."""
    extra = "Auto-Submitted: auto-replied\nPrecedence: bulk\n" + f"In-Reply-To: <{sent.message_id}>\n"
    head = _head(f"<{sent.recipient}>", sent.sender, f"Out of office: {sent.subject}", sent.at + 2, "text/plain", extra)
    return _wire(head + "I am out of the office until Monday and will answer then.\n")


def human_reply(sent: Sent) -> bytes:
    """A person writes back to the bounce address: no feedback at all."""
    extra = f"In-Reply-To: <{sent.message_id}>\nMessage-ID: <re.{sent.message_id}>\n"
    head = _head(f"<{sent.recipient}>", sent.sender, f"Re: {sent.subject}", sent.at + 900, "text/plain", extra)
    return _wire(head + "Hello,\n\ndo you have this in blue?\n\nThanks\n")
