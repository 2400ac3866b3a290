"""Lines of Postfix's log, written for this project, and what each must give."""

from __future__ import annotations

from typing import Any

from mailecho.schemas.taxonomy import Cause, Kind, Permanence

STAMP = "2026-03-01T10:20:30.123456+00:00"
NONE: dict[str, Any] = {}


def delivery(daemon: str, rest: str, queue_id: str = "4Z5abcDEFgzzzz") -> str:
    return f"{STAMP} mx1 postfix/{daemon}[4711]: {queue_id}: {rest}"


GOLDEN: list[tuple[str, str, dict[str, Any]]] = [
    (
        "sent",
        delivery(
            "smtp",
            "to=<user@example.com>, relay=mx.example.com[192.0.2.9]:25, delay=0.52, delays=0.1/0.01/0.2/0.21, "
            "dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as ABCDEF)",
        ),
        {
            "kind": Kind.DELIVERY,
            "recipient": "user@example.com",
            "remote_host": "mx.example.com",
            "remote_ip": "192.0.2.9",
            "status": "2.0.0",
            "smtp_code": 250,
            "queue_seconds": 0.52,
            "diagnostic": "250 2.0.0 Ok: queued as ABCDEF",
            "envelope_id": "mx1/4Z5abcDEFgzzzz",
            "source_host": "mx1",
            "cause": None,
        },
    ),
    (
        "sent, connection reused, TLS summary",
        delivery(
            "smtp",
            "to=<user@example.com>, relay=mx.example.com[2001:db8::25]:25, conn_use=3, delay=1, delays=0.9/0/0/0.1, "
            "tls=dane/requiretls, dsn=2.1.5, status=sent (250 2.1.5 OK)",
        ),
        {"kind": Kind.DELIVERY, "remote_ip": "2001:db8::25", "tls": "dane/requiretls", "status": "2.1.5"},
    ),
    (
        "sent after an alias: the address we sent to",
        delivery(
            "smtp",
            "to=<target@example.net>, orig_to=<list@example.org>, relay=mx.example.net[192.0.2.1]:25, delay=2, "
            "delays=1/0/0.5/0.5, dsn=2.0.0, status=sent (250 OK id=1abc)",
        ),
        {"kind": Kind.DELIVERY, "recipient": "list@example.org", "diagnostic": "250 OK id=1abc", "smtp_code": 250},
    ),
    (
        "orig_to without a domain is no address",
        delivery(
            "local",
            "to=<root@mx1.example.org>, orig_to=<root>, relay=local, delay=0.03, delays=0.02/0.01/0/0, dsn=2.0.0, "
            "status=sent (delivered to mailbox)",
        ),
        {"kind": Kind.DELIVERY, "recipient": "root@mx1.example.org", "remote_host": "", "smtp_code": 0},
    ),
    (
        "quoted local part with `>, ` inside",
        delivery(
            "smtp",
            'to=<"a>, relay=x, status=sent (250 ok)"@example.com>, relay=mx.example.com[192.0.2.9]:25, delay=1, '
            "delays=1/0/0/0, dsn=5.1.1, status=bounced (host mx.example.com[192.0.2.9] said: 550 5.1.1 User unknown "
            "(in reply to RCPT TO command))",
        ),
        {
            "kind": Kind.BOUNCE,
            "recipient": '"a>, relay=x, status=sent (250 ok)"@example.com',
            "smtp_code": 550,
            "stage": "rcpt",
        },
    ),
    (
        "unbalanced quote, as old releases write it",
        delivery(
            "smtp",
            'to=<a"b@example.com>, relay=none, delay=1, delays=1/0/0/0, dsn=5.1.3, status=bounced (bad address syntax)',
        ),
        {"kind": Kind.BOUNCE, "status": "5.1.3", "diagnostic": "bad address syntax"},
    ),
    (
        "SMTPUTF8 recipient",
        delivery(
            "smtp",
            "to=<bücher@bücher.example>, relay=mx.example.com[192.0.2.9]:25, delay=1, delays=1/0/0/0, dsn=2.0.0, "
            "status=sent (250 2.0.0 Ok)",
        ),
        {"kind": Kind.DELIVERY, "recipient": "bücher@bücher.example"},
    ),
    (
        "bounced, RCPT TO",
        delivery(
            "smtp",
            "to=<gone@example.com>, relay=mx.example.com[192.0.2.9]:25, delay=1.2, delays=0.1/0/0.5/0.6, dsn=5.1.1, "
            "status=bounced (host mx.example.com[192.0.2.9] said: 550 5.1.1 <gone@example.com>: Recipient address "
            "rejected: User unknown (in reply to RCPT TO command))",
        ),
        {
            "kind": Kind.BOUNCE,
            "recipient": "gone@example.com",
            "stage": "rcpt",
            "smtp_code": 550,
            "status": "5.1.1",
            "diagnostic": "550 5.1.1 <gone@example.com>: Recipient address rejected: User unknown",
        },
    ),
    (
        "bounced, a reply of several lines, end of DATA",
        delivery(
            "smtp",
            "to=<user@example.com>, relay=mx.example.com[192.0.2.9]:25, delay=3, delays=0.1/0/1/2, dsn=5.7.26, "
            "status=bounced (host mx.example.com[192.0.2.9] said: 550-5.7.26 This mail is unauthenticated. "
            "550 5.7.26 See https://example.com/help (in reply to end of DATA command))",
        ),
        {
            "kind": Kind.BOUNCE,
            "stage": "end_of_data",
            "smtp_code": 550,
            "status": "5.7.26",
            "diagnostic": "550-5.7.26 This mail is unauthenticated. 550 5.7.26 See https://example.com/help",
        },
    ),
    (
        "bounced, MAIL FROM",
        delivery(
            "smtp",
            "to=<user@example.com>, relay=mx.example.com[192.0.2.9]:25, delay=3, delays=0.1/0/1/2, dsn=5.7.1, "
            "status=bounced (host mx.example.com[192.0.2.9] said: 554 5.7.1 Sender denied "
            "(in reply to MAIL FROM command))",
        ),
        {"kind": Kind.BOUNCE, "stage": "mail", "smtp_code": 554},
    ),
    (
        "bounced, HELO, host with a port",
        delivery(
            "smtp",
            "to=<user@example.com>, relay=mx.example.com[192.0.2.9]:2525, delay=3, delays=0.1/0/1/2, dsn=5.5.2, "
            "status=bounced (host mx.example.com[192.0.2.9]:2525 said: 501 5.5.2 Bad hello (in reply to EHLO command))",
        ),
        {"kind": Kind.BOUNCE, "stage": "helo", "smtp_code": 501},
    ),
    (
        "bounced, DATA",
        delivery(
            "smtp",
            "to=<user@example.com>, relay=mx.example.com[192.0.2.9]:25, delay=3, delays=0.1/0/1/2, dsn=5.5.1, "
            "status=bounced (host mx.example.com[192.0.2.9] said: 554 5.5.1 No valid recipients "
            "(in reply to DATA command))",
        ),
        {"kind": Kind.BOUNCE, "stage": "data", "status": "5.5.1"},
    ),
    (
        "bounced: no such domain",
        delivery(
            "smtp",
            "to=<user@nosuch.example>, relay=none, delay=0.2, delays=0.1/0/0.1/0, dsn=5.4.4, status=bounced "
            "(Host or domain name not found. Name service error for name=nosuch.example type=A: Host not found)",
        ),
        {"kind": Kind.BOUNCE, "status": "5.4.4", "remote_host": "", "smtp_code": 0, "stage": ""},
    ),
    (
        "bounced: null MX",
        delivery(
            "smtp",
            "to=<user@example.com>, relay=none, delay=0.2, delays=0.1/0/0.1/0, dsn=5.1.10, status=bounced "
            "(Domain example.com does not accept mail (nullMX))",
        ),
        {"kind": Kind.BOUNCE, "status": "5.1.10", "diagnostic": "Domain example.com does not accept mail (nullMX)"},
    ),
    (
        "bounced: our own size limit",
        delivery(
            "smtp",
            "to=<user@example.com>, relay=mx.example.com[192.0.2.9]:25, delay=2, delays=1/0/1/0, dsn=5.3.4, "
            "status=bounced (message size 52428800 exceeds size limit 36700160 of server mx.example.com[192.0.2.9])",
        ),
        {"kind": Kind.BOUNCE, "status": "5.3.4", "smtp_code": 0},
    ),
    (
        "bounced by local: unknown user",
        delivery(
            "local",
            'to=<nobody@mx1.example.org>, relay=local, delay=0, delays=0/0/0/0, dsn=5.1.1, status=bounced '
            '(unknown user: "nobody")',
        ),
        {"kind": Kind.BOUNCE, "status": "5.1.1", "diagnostic": 'unknown user: "nobody"'},
    ),
    (
        "bounced by error: a retired address",
        delivery(
            "error",
            "to=<old@example.org>, relay=none, delay=0.01, delays=0/0/0/0, dsn=5.2.1, status=bounced (mailbox closed)",
        ),
        {"kind": Kind.BOUNCE, "status": "5.2.1"},
    ),
    (
        "bounced by pipe",
        delivery(
            "pipe",
            "to=<user@example.org>, relay=filter, delay=0.5, delays=0.1/0/0/0.4, dsn=5.3.0, status=bounced "
            "(Command died with status 1: \"/usr/local/bin/deliver\")",
        ),
        {"kind": Kind.BOUNCE, "remote_host": "", "status": "5.3.0"},
    ),
    (
        "bounced by virtual: over quota",
        delivery(
            "virtual",
            "to=<full@example.org>, relay=virtual, delay=0.5, delays=0.1/0/0/0.4, dsn=5.2.2, status=bounced "
            "(maildir delivery failed: error writing message: Disk quota exceeded)",
        ),
        {"kind": Kind.BOUNCE, "status": "5.2.2"},
    ),
    (
        "bounced by cleanup itself",
        delivery(
            "cleanup",
            "to=<user@example.org>, relay=none, delay=0.05, delays=0.05/0/0/0, dsn=5.4.6, status=bounced "
            "(alias expansion loop)",
        ),
        {"kind": Kind.BOUNCE, "status": "5.4.6"},
    ),
    (
        "deferred: greylisted",
        delivery(
            "smtp",
            "to=<user@example.com>, relay=mx.example.com[192.0.2.9]:25, delay=1.2, delays=0.1/0/0.5/0.6, dsn=4.7.1, "
            "status=deferred (host mx.example.com[192.0.2.9] said: 451 4.7.1 Greylisted, try again in 300 seconds "
            "(in reply to RCPT TO command))",
        ),
        {"kind": Kind.DELAY, "stage": "rcpt", "smtp_code": 451, "status": "4.7.1"},
    ),
    (
        "deferred: the greeting",
        delivery(
            "smtp",
            "to=<user@example.com>, relay=mx.example.com[192.0.2.9]:25, delay=86400, delays=86399/0/1/0, dsn=4.7.0, "
            "status=deferred (host mx.example.com[192.0.2.9] refused to talk to me: 421 4.7.0 Try again later)",
        ),
        {
            "kind": Kind.DELAY,
            "stage": "connect",
            "smtp_code": 421,
            "diagnostic": "421 4.7.0 Try again later",
            "queue_seconds": 86400.0,
        },
    ),
    (
        "deferred: refused connection, host from the text",
        delivery(
            "smtp",
            "to=<user@example.com>, relay=none, delay=31, delays=0.1/0/31/0, dsn=4.4.1, status=deferred "
            "(connect to mx.example.com[192.0.2.9]:25: Connection refused)",
        ),
        {
            "kind": Kind.DELAY,
            "stage": "connect",
            "remote_host": "mx.example.com",
            "remote_ip": "192.0.2.9",
            "smtp_code": 0,
        },
    ),
    (
        "deferred: lost connection",
        delivery(
            "smtp",
            "to=<user@example.com>, relay=mx.example.com[192.0.2.9]:25, delay=31, delays=0.1/0/31/0, dsn=4.4.2, "
            "status=deferred (lost connection with mx.example.com[192.0.2.9] while sending RCPT TO)",
        ),
        {"kind": Kind.DELAY, "stage": "rcpt", "status": "4.4.2"},
    ),
    (
        "deferred: timeout in the handshake",
        delivery(
            "smtp",
            "to=<user@example.com>, relay=none, delay=300, delays=0.1/0/300/0, dsn=4.4.2, status=deferred "
            "(conversation with mx.example.com[192.0.2.9] timed out while performing the EHLO handshake)",
        ),
        {"kind": Kind.DELAY, "stage": "helo", "remote_host": "mx.example.com"},
    ),
    (
        "deferred: timeout at the end",
        delivery(
            "smtp",
            "to=<user@example.com>, relay=mx.example.com[192.0.2.9]:25, delay=600, delays=0/0/1/599, dsn=4.4.2, "
            "status=deferred (conversation with mx.example.com[192.0.2.9] timed out while sending end of data -- "
            "message may be sent more than once)",
        ),
        {"kind": Kind.DELAY, "stage": "end_of_data"},
    ),
    (
        "deferred by the queue manager: a dead destination",
        delivery(
            "qmgr",
            "to=<user@example.com>, relay=none, delay=5, delays=5/0/0/0, dsn=4.7.1, status=deferred (delivery "
            "temporarily suspended: host mx.example.com[192.0.2.9] refused to talk to me: 554 5.7.1 Blocked)",
        ),
        {"kind": Kind.DELAY, "remote_host": "mx.example.com", "smtp_code": 554, "stage": "connect"},
    ),
    (
        "deferred by error",
        delivery(
            "error",
            "to=<user@example.com>, relay=none, delay=5, delays=5/0/0/0, dsn=4.3.0, status=deferred "
            "(mail transport unavailable)",
        ),
        {"kind": Kind.DELAY, "status": "4.3.0"},
    ),
    (
        "soft_bounce is a delay",
        delivery(
            "smtp",
            "to=<gone@example.com>, relay=mx.example.com[192.0.2.9]:25, delay=1.2, delays=0.1/0/0.5/0.6, dsn=4.1.1, "
            "status=SOFTBOUNCE (host mx.example.com[192.0.2.9] said: 550 5.1.1 Unknown (in reply to RCPT TO command))",
        ),
        {"kind": Kind.DELAY, "smtp_code": 550},
    ),
    (
        "lmtp sent over TCP",
        delivery(
            "lmtp",
            "to=<user@example.org>, relay=store.example.org[127.0.0.1]:24, delay=0.2, delays=0.1/0/0/0.1, dsn=2.0.0, "
            "status=sent (250 2.0.0 <user@example.org> abc123 Saved)",
        ),
        {"kind": Kind.DELIVERY, "smtp_code": 250, "remote_ip": "127.0.0.1"},
    ),
    (
        "lmtp sent over a socket: no remote host",
        delivery(
            "lmtp",
            "to=<user@example.org>, relay=mx1.example.org[private/dovecot-lmtp], delay=0.2, delays=0.1/0/0/0.1, "
            "dsn=2.0.0, status=sent (250 2.0.0 <user@example.org> abc123 Saved)",
        ),
        {"kind": Kind.DELIVERY, "remote_host": "", "remote_ip": ""},
    ),
    (
        "lmtp bounced over a socket",
        delivery(
            "lmtp",
            "to=<full@example.org>, relay=mx1.example.org[private/dovecot-lmtp], delay=0.2, delays=0.1/0/0/0.1, "
            "dsn=5.2.2, status=bounced (host mx1.example.org[private/dovecot-lmtp] said: 552 5.2.2 "
            "<full@example.org> Quota exceeded (mailbox for user is full) (in reply to end of DATA command))",
        ),
        {
            "kind": Kind.BOUNCE,
            "smtp_code": 552,
            "status": "5.2.2",
            "stage": "end_of_data",
            "diagnostic": "552 5.2.2 <full@example.org> Quota exceeded (mailbox for user is full)",
        },
    ),
    (
        "virtual sent",
        delivery(
            "virtual",
            "to=<user@example.org>, relay=virtual, delay=0.2, delays=0.1/0/0/0.1, dsn=2.0.0, "
            "status=sent (delivered to maildir)",
        ),
        {"kind": Kind.DELIVERY, "diagnostic": "delivered to maildir"},
    ),
    (
        "pipe sent",
        delivery(
            "pipe",
            "to=<user@example.org>, relay=dovecot, delay=0.2, delays=0.1/0/0/0.1, dsn=2.0.0, "
            "status=sent (delivered via dovecot service)",
        ),
        {"kind": Kind.DELIVERY, "remote_host": ""},
    ),
    (
        "expired",
        delivery("qmgr", "from=<bounce@example.org>, status=expired, returned to sender"),
        {
            "kind": Kind.EXPIRY,
            "recipient": "",
            "mail_from": "bounce@example.org",
            "cause": Cause.EXPIRED,
            "permanence": Permanence.TRANSIENT,
            "envelope_id": "mx1/4Z5abcDEFgzzzz",
        },
    ),
    (
        "expired by the operator",
        delivery("qmgr", "from=<bounce@example.org>, status=force-expired, returned to sender"),
        {"kind": Kind.EXPIRY, "cause": Cause.EXPIRED},
    ),
    (
        "a transport with a name of its own, a second instance",
        f"{STAMP} mx1 postfix-out/transactional/smtp[1]: 3F2A1: to=<user@example.com>, "
        "relay=mx.example.com[192.0.2.9]:25, delay=1, delays=1/0/0/0, dsn=2.0.0, status=sent (250 ok)",
        {"kind": Kind.DELIVERY, "envelope_id": "mx1/3F2A1"},
    ),
    (
        "no closing parenthesis: syslog cut the text",
        delivery(
            "smtp",
            "to=<user@example.com>, relay=mx.example.com[192.0.2.9]:25, delay=1, delays=1/0/0/0, dsn=5.1.1, "
            "status=bounced (host mx.example.com[192.0.2.9] said: 550 5.1.1 No such us",
        ),
        {"kind": Kind.BOUNCE, "diagnostic": "550 5.1.1 No such us", "smtp_code": 550, "stage": ""},
    ),
    (
        "unknown field before the status",
        delivery(
            "smtp",
            "to=<user@example.com>, relay=mx.example.com[192.0.2.9]:25, delay=1, delays=1/0/0/0, novelty=7, dsn=2.0.0, "
            "status=sent (250 ok)",
        ),
        {"kind": Kind.DELIVERY, "status": "2.0.0"},
    ),
    ("handed to an alias", delivery("local", "to=<a@example.org>, relay=local, delay=0, delays=0/0/0/0, dsn=2.0.0, status=sent (forwarded as 3F2A2)"), NONE),  # noqa: E501
    ("handed to a content filter", delivery("smtp", "to=<a@example.org>, relay=127.0.0.1[127.0.0.1]:10024, delay=0, delays=0/0/0/0, dsn=2.0.0, status=sent (250 2.0.0 from MTA(smtp:[127.0.0.1]:10025): 250 2.0.0 Ok: queued as 3F2A3)"), NONE),  # noqa: E501
    ("discarded", delivery("discard", "to=<a@example.org>, relay=none, delay=0, delays=0/0/0/0, dsn=2.0.0, status=sent (silently)"), NONE),  # noqa: E501
    ("address probe", delivery("smtp", "to=<a@example.org>, relay=mx.example.org[192.0.2.7]:25, delay=0, delays=0/0/0/0, dsn=5.1.1, status=undeliverable (unknown)"), NONE),  # noqa: E501
    ("removed", delivery("qmgr", "removed"), NONE),
    ("queued", delivery("qmgr", "from=<bounce@example.org>, size=1234, nrcpt=1 (queue active)"), NONE),
    ("message-id", delivery("cleanup", "message-id=<20260301.1@example.org>"), NONE),
    ("non-delivery notification", delivery("bounce", "sender non-delivery notification: 3F2A4"), NONE),
    ("refused by us", f"{STAMP} mx1 postfix/smtpd[9]: NOQUEUE: reject: RCPT from unknown[192.0.2.66]: 554 5.7.1 <x@example.net>: Relay access denied; from=<a@example.com> to=<x@example.net> proto=ESMTP helo=<y>", NONE),  # noqa: E501
    ("another program", f"{STAMP} mx1 opendkim[12]: 3F2A5: DKIM-Signature field added", NONE),
]  # fmt: skip
