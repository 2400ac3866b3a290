"""A feed that knows the truth: raw records, and what must stand in the tables and on the list in the end.

It shares no code with the pipeline's fold or policy: what each recipient's fate leads to is written
down here, by hand, from the policy's words. Everything is derived from a seed.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import orjson

from mailecho.schemas.topics import RAW_ARF, RAW_DELIVERY, RAW_DSN

#: (kind, cause, recipient, time as a row has it): what tells one event from another here.
Truth = tuple[str, str, str, str]

_SOFT = "452 4.2.2 The email account that you tried to reach is over quota"
_HARD = "550 5.1.1 User unknown: no such user here"
_SPAM = "554 5.7.1 Message rejected: spam detected in the message content"
_BUSY = "451 4.7.1 Greylisted, please try again later"
_GONE = "550 5.1.2 Host unknown: domain not found"


@dataclass(frozen=True)
class Raw:
    """One raw record to produce."""

    topic: str
    value: bytes
    source: str = ""


@dataclass
class Feed:
    """Records in the order in which they are sent, and the truth about them."""

    records: list[Raw] = field(default_factory=list)
    events: Counter[Truth] = field(default_factory=Counter)
    dead_letters: int = 0
    denied: dict[str, str] = field(default_factory=dict)  # address: reason
    allowed: list[str] = field(default_factory=list)

    def add(self, other: Feed) -> None:
        """Take in what another feed, about others, knows."""
        self.records += other.records
        self.events += other.events
        self.dead_letters += other.dead_letters
        self.denied |= other.denied
        self.allowed += other.allowed


class Generator:
    """Makes a feed of about `size` records.

    `name` (letters and digits) goes into every address, message and queue id, so that feeds of
    other names are about others.
    """

    def __init__(self, seed: int, now: datetime | None = None, name: str = "") -> None:
        self._random = random.Random(seed)
        self._name = name
        self._now = (now or datetime.now(UTC)).replace(microsecond=0)
        self._feed = Feed()
        self._pending: list[bytes] = []  # JSON lines that go as a chunk
        self._messages = 0
        self._postfix = 0

    def make(self, size: int) -> Feed:
        """The feed."""
        number = 0
        while len(self._feed.records) < size:
            self._recipient(number)
            number += 1
        self._flush()
        self._spoil()
        records = self._feed.records
        # some come twice, and nothing comes in the order in which it happened
        records += self._random.sample(records, len(records) // 25)
        self._random.shuffle(records)
        self._feed.dead_letters = sum(self._is_bad(record) for record in records)
        return self._feed

    def _recipient(self, number: int) -> None:
        """All that happens to one recipient. Hours count back from now; failures are within 14 days."""
        address = f"{self._name}user{number}@{('example.org', 'example.net', 'gmail.com', 'yahoo.com')[number % 4]}"
        fate = number % 24
        deny, allow = self._feed.denied, self._feed.allowed
        for _ in range(self._random.randint(1, 6)):
            self._log("delivery", "", address, self._random.uniform(100, 200))
        match fate:
            case 0:
                self._dsn(address, _HARD, "5.1.1", "mailbox_unknown", 50)
                deny[address] = "hard_bounce"
            case 1:
                self._log("bounce", "mailbox_unknown", address, 60, diagnostic=_HARD, smtp_code=550, status="5.1.1")
                deny[address] = "hard_bounce"
            case 2 | 3 | 4:
                hours = (90, 60, 30) if fate != 3 else (90, 60)
                for at in hours:
                    self._log("bounce", "mailbox_full", address, at, diagnostic=_SOFT, smtp_code=452, status="4.2.2")
                if fate == 4:
                    self._log("delivery", "", address, 10)
                if fate == 2:
                    deny[address] = "soft_bounce"
                else:
                    allow.append(address)
            case 5:
                self._complaint(address, 40)
                deny[address] = "complaint"
            case 6:
                for at in (90, 80, 70, 60, 50):
                    self._log("bounce", "spam_content", address, at, diagnostic=_SPAM, smtp_code=554, status="5.7.1")
                allow.append(address)
            case 7:
                for at in (90, 80, 70, 60):
                    self._log("delay", "greylist", address, at, diagnostic=_BUSY, smtp_code=451, status="4.7.1")
                allow.append(address)
            case 8:
                gone = f"user@gone{self._name}{number}.example"
                for at in (90, 50):
                    self._log("bounce", "domain_unknown", gone, at, diagnostic=_GONE, smtp_code=550, status="5.1.2")
                deny[f"anyone@gone{self._name}{number}.example"] = "domain"
            case 9:
                gone = f"user@gone{self._name}{number}.example"
                for at in (90, 80):  # less than a day apart
                    self._log("bounce", "domain_unknown", gone, at, diagnostic=_GONE, smtp_code=550, status="5.1.2")
                allow.append(f"anyone@gone{self._name}{number}.example")
            case _:
                for _ in range(3):
                    self._log("delivery", "", address, self._random.uniform(1, 90))
                allow.append(address)

    def _when(self, hours: float) -> datetime:
        return self._now - timedelta(seconds=int(hours * 3600) + self._random.randint(0, 600))

    def _know(self, kind: str, cause: str, address: str, at: datetime) -> None:
        self._feed.events[kind, cause, address, at.strftime("%Y-%m-%d %H:%M:%S.000")] += 1

    def _message_id(self) -> str:
        self._messages += 1
        return f"{self._name}m{self._messages}@mail.example.com"

    def _log(self, kind: str, cause: str, address: str, hours: float, **more: object) -> None:
        at = self._when(hours)
        self._know(kind, cause, address, at)
        entry = {"kind": kind, "recipient": address, "message_id": self._message_id(), "occurred_at": at.timestamp()}
        form = self._random.random()
        if kind == "delivery" and form < 0.25:
            self._postfix_line(address, at)
        elif form < 0.5:
            self._pending.append(orjson.dumps({**entry, **more}))
            if len(self._pending) >= 20:
                self._flush()
        else:
            self._feed.records.append(Raw(RAW_DELIVERY, orjson.dumps({**entry, **more}), "mailecho"))

    def _flush(self) -> None:
        if self._pending:
            self._feed.records.append(Raw(RAW_DELIVERY, b"\n".join(self._pending), "mailecho"))
            self._pending = []

    def _postfix_line(self, address: str, at: datetime) -> None:
        self._postfix += 1
        queue_id = f"4X{self._postfix:08X}z"
        line = (
            f"{at.isoformat()} mx1.example.com postfix/smtp[321]: {queue_id}: to=<{address}>, "
            f"relay=mx.example.org[198.51.100.9]:25, delay=1.2, delays=0.1/0/0.5/0.6, dsn=2.0.0, "
            "status=sent (250 2.0.0 Ok: queued as 12345)"
        )
        self._feed.records.append(Raw(RAW_DELIVERY, line.encode(), "postfix"))

    def _dsn(self, address: str, diagnostic: str, status: str, cause: str, hours: float) -> None:
        at = self._when(hours)
        self._know("bounce", cause, address, at)
        self._feed.records.append(Raw(RAW_DSN, dsn(address, diagnostic, status, self._message_id(), at)))

    def _complaint(self, address: str, hours: float) -> None:
        at = self._when(hours)
        self._know("complaint", "", address, at)
        self._feed.records.append(Raw(RAW_ARF, arf(address, self._message_id(), at)))

    def _spoil(self) -> None:
        bad = (b'{"kind":"delivery","recip', b"", b'{"kind":"party","occurred_at":1,"recipient":"a@example.org"}')
        for number in range(max(3, len(self._feed.records) // 500)):
            self._feed.records.append(Raw(RAW_DELIVERY, bad[number % 3], "mailecho"))

    @staticmethod
    def _is_bad(record: Raw) -> bool:
        return record.value in (b"", b'{"kind":"delivery","recip') or record.value.startswith(b'{"kind":"party"')


def dsn(address: str, diagnostic: str, status: str, message_id: str, at: datetime) -> bytes:
    """A delivery status notification in the form that Postfix gives it."""
    date = format_datetime(at)
    text = f"""\
From: MAILER-DAEMON@mx1.example.com (Mail Delivery System)
To: bounces@mail.example.com
Subject: Undelivered Mail Returned to Sender
Date: {date}
Auto-Submitted: auto-replied
MIME-Version: 1.0
Content-Type: multipart/report; report-type=delivery-status; boundary="4Xq/mx1.example.com"

This is a MIME-encapsulated message.

--4Xq/mx1.example.com
Content-Type: text/plain; charset=us-ascii

This is the mail system at host mx1.example.com.

I'm sorry to have to inform you that your message could not
be delivered to one or more recipients.

<{address}>: host mx.example.org[198.51.100.9] said: {diagnostic} (in reply to RCPT TO command)

--4Xq/mx1.example.com
Content-Type: message/delivery-status

Reporting-MTA: dns; mx1.example.com
X-Postfix-Queue-ID: 4Xq
Arrival-Date: {date}

Final-Recipient: rfc822; {address}
Original-Recipient: rfc822;{address}
Action: failed
Status: {status}
Remote-MTA: dns; mx.example.org
Diagnostic-Code: smtp; {diagnostic}

--4Xq/mx1.example.com
Content-Type: text/rfc822-headers

From: news@mail.example.com
To: {address}
Subject: Your news
Message-ID: <{message_id}>
Date: {date}

--4Xq/mx1.example.com--
"""
    return text.replace("\n", "\r\n").encode()


def arf(address: str, message_id: str, at: datetime) -> bytes:
    """A complaint (RFC 5965) that names its recipient."""
    date = format_datetime(at)
    text = f"""\
From: <fbl@feedback.example.net>
To: <fbl@mail.example.com>
Subject: FW: Your news
Date: {date}
MIME-Version: 1.0
Content-Type: multipart/report; report-type=feedback-report; boundary="part_fbl"

--part_fbl
Content-Type: text/plain; charset="US-ASCII"

This is an email abuse report.

--part_fbl
Content-Type: message/feedback-report

Feedback-Type: abuse
User-Agent: ExampleFBL/1.0
Version: 1
Original-Mail-From: <bounces@mail.example.com>
Original-Rcpt-To: <{address}>
Arrival-Date: {date}
Source-IP: 192.0.2.1

--part_fbl
Content-Type: text/rfc822-headers

From: <news@mail.example.com>
To: <{address}>
Subject: Your news
Message-ID: <{message_id}>
Date: {date}

--part_fbl--
"""
    return text.replace("\n", "\r\n").encode()
