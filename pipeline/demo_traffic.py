"""The demo's sender: made-up traffic with a story, the same for the same seed and start.

A shop mails three streams from four IPs. Most arrives. One campaign of the last hours goes to a
bought list: unknown users and complaints. One IP is on a blocklist since 90 minutes. Nobody is mailed
again who bounced as unknown, since a good sender asks the list.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson

from mailecho.pipeline import demo_mail
from mailecho.pipeline.demo_mail import Sent
from mailecho.schemas.topics import RAW_ARF, RAW_DELIVERY, RAW_DSN

HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Raw:
    """One record for a raw topic."""

    topic: str
    value: bytes
    source: str = ""


@dataclass(frozen=True, slots=True)
class _Provider:
    domain: str
    host: str
    ip: str
    weight: int


# domains of mailbox providers, so that the tables look alive; hosts that are theirs by suffix, documentation IPs
_PROVIDERS = (
    _Provider("gmail.com", "gmail-smtp-in.l.google.com", "198.51.100.11", 34),
    _Provider("outlook.com", "outlook-com.olc.protection.outlook.com", "198.51.100.21", 17),
    _Provider("yahoo.com", "mta5.am0.yahoodns.net", "198.51.100.31", 13),
    _Provider("icloud.com", "mx01.mail.icloud.com", "198.51.100.41", 8),
    _Provider("gmx.de", "mx00.gmx.net", "198.51.100.51", 7),
    _Provider("example.org", "example-org.mail.protection.outlook.com", "198.51.100.61", 9),
    _Provider("example.com", "mx1.example.com", "203.0.113.11", 7),
    _Provider("orange.fr", "smtp-in.orange.fr", "198.51.100.71", 5),
)
_CAMPAIGNS = (  # campaign, stream, pool, share
    ("order-mail", "transactional", "trusted", 40),
    ("newsletter-47", "newsletter", "bulk", 45),
    ("reactivation", "marketing", "bulk", 15),
)
_IPS = {"trusted": ("192.0.2.10", "192.0.2.11"), "bulk": ("192.0.2.12", "192.0.2.13")}
_LISTED_IP = "192.0.2.13"
_BAD_CAMPAIGN = "spring-sale"
_UNKNOWN = {
    "gmail.com": "550-5.1.1 The email account that you tried to reach does not exist. 550 5.1.1 gsmtp",
    "outlook.com": "550 5.5.0 Requested action not taken: mailbox unavailable (S2017062302)",
    "yahoo.com": "554 delivery error: dd This user doesn't have a yahoo.com account [-9]",
}
_SOFT = (
    (452, "4.2.2", "452 4.2.2 The recipient's inbox is out of storage space"),
    (421, "4.7.0", "421 4.7.0 Try again later, too many messages from this sender"),
    (451, "4.7.1", "451 4.7.1 Greylisted, please try again in 300 seconds"),
    (451, "4.3.2", "451 4.3.2 Internal server error, please try again later"),
)
_LISTED = (554, "5.7.1", f"554 5.7.1 Service unavailable; Client host [{_LISTED_IP}] blocked using zen.spamhaus.org")


class Traffic:
    """Makes the raw records of one message after the other. `start` is epoch seconds UTC."""

    def __init__(self, start: float, seed: int = 47) -> None:
        self._random = random.Random(seed)
        self._start = start
        self._sent = 0
        self._gone: set[str] = set()

    def history(self, messages: int) -> Iterator[list[Raw]]:
        """Messages of the 24 hours before the start, oldest first, more of them by day than by night."""
        times = sorted(self._start - age for age in (self._age() for _ in range(messages)))
        for at in times:
            yield self.message(at)

    def _age(self) -> float:
        while True:
            age = self._random.uniform(60.0, 24 * HOUR)
            hour = datetime.fromtimestamp(self._start - age, UTC).hour
            if self._random.random() < (1.0 if 7 <= hour < 20 else 0.35):
                return age

    def message(self, at: float) -> list[Raw]:
        """All records about one message that was sent at that time (epoch seconds UTC)."""
        rng = self._random
        self._sent += 1
        recent = at > self._start - 3 * HOUR
        bad = recent and rng.random() < 0.2
        campaign, stream, pool, _ = (
            (_BAD_CAMPAIGN, "marketing", "bulk", 0)
            if bad
            else rng.choices(_CAMPAIGNS, [share for *_, share in _CAMPAIGNS])[0]
        )
        provider = rng.choices(_PROVIDERS, [p.weight for p in _PROVIDERS])[0]
        recipient = self._recipient(provider.domain, bought=bad)
        sent = Sent(
            recipient=recipient,
            message_id=f"{int(self._start):x}.{self._sent:x}@mail.example.com",
            sender="bounce@mail.example.com",
            subject={_BAD_CAMPAIGN: "Everything must go", "order-mail": "Your order"}.get(campaign, "What is new"),
            ip=rng.choice(_IPS[pool]),
            campaign=campaign,
            remote_host=provider.host,
            at=at,
        )
        return list(self._outcome(sent, provider, stream, pool, bad=bad))

    def _recipient(self, domain: str, *, bought: bool) -> str:
        while True:
            # it grows with what was sent, so that there is always someone left to mail
            number = self._random.randrange((9_000 if bought else 6_000) + self._sent // 4)
            address = f"{'lead' if bought else 'customer'}{number:04d}@{domain}"
            if address not in self._gone:
                return address

    def _outcome(self, sent: Sent, provider: _Provider, stream: str, pool: str, *, bad: bool) -> Iterator[Raw]:
        rng = self._random
        chance = rng.random()
        listed = sent.ip == _LISTED_IP and sent.at > self._start - 1.5 * HOUR
        if listed and provider.domain in ("outlook.com", "example.org", "gmx.de"):
            yield self._log(sent, provider, stream, pool, "bounce", *_LISTED)
        elif chance < (0.16 if bad else 0.006):
            self._gone.add(sent.recipient)
            reply = _UNKNOWN.get(provider.domain, "550 5.1.1 User unknown; no such mailbox here")
            if rng.random() < 0.25:  # the relay behind accepted it and reports later
                yield self._log(sent, provider, stream, pool, "delivery", 250, "2.0.0", "250 2.0.0 OK queued")
                yield Raw(RAW_DSN, rng.choice(demo_mail.BOUNCES)(sent, "5.1.1", reply))
            else:
                yield self._log(sent, provider, stream, pool, "bounce", int(reply[:3]), "5.1.1", reply)
        else:
            if chance > 0.94:
                yield self._log(sent, provider, stream, pool, "delay", *rng.choice(_SOFT))
            if chance > 0.995:
                yield Raw(RAW_DSN, demo_mail.delay_notice(sent))
                return
            yield self._log(sent, provider, stream, pool, "delivery", 250, "2.0.0", "250 2.0.0 OK queued")
            yield from self._reaction(sent, bad=bad)

    def _reaction(self, sent: Sent, *, bad: bool) -> Iterator[Raw]:
        chance = self._random.random()
        if chance < (0.03 if bad else 0.003):
            yield Raw(RAW_ARF, demo_mail.complaint(sent))
        elif chance < 0.034:
            yield Raw(RAW_DSN, demo_mail.auto_reply(sent))
        elif chance < 0.036:
            yield Raw(RAW_DSN, demo_mail.human_reply(sent))

    def _log(
        self, sent: Sent, provider: _Provider, stream: str, pool: str, kind: str, code: int, status: str, reply: str
    ) -> Raw:
        """The line of the MTA that sent it: the trusted pool runs Postfix, the other one writes our JSON."""
        seconds = round(self._random.expovariate(0.6) + (300 if kind == "delay" else 0), 2)
        at = datetime.fromtimestamp(sent.at + (0 if kind == "delay" else seconds), UTC)
        if pool == "trusted":
            return Raw(RAW_DELIVERY, _postfix_line(sent, provider, at, seconds, kind, status, reply), "postfix")
        entry = {
            "kind": kind,
            "occurred_at": at.isoformat(timespec="milliseconds"),
            "recipient": sent.recipient,
            "message_id": sent.message_id,
            "mail_from": sent.sender,
            "sending_ip": sent.ip,
            "pool": pool,
            "stream": stream,
            "campaign": sent.campaign,
            "source_host": "mta1.example.net",
            "remote_host": provider.host,
            "remote_ip": provider.ip,
            "stage": "rcpt" if kind != "delivery" else "end_of_data",
            "smtp_code": code,
            "status": status,
            "diagnostic": reply,
            "attempt": 1,
            "queue_seconds": seconds,
            "size_bytes": self._random.randrange(4_000, 60_000),
            "tls": "TLSv1.3",
        }
        return Raw(RAW_DELIVERY, orjson.dumps(entry), "mailecho")


def _postfix_line(
    sent: Sent, provider: _Provider, at: datetime, seconds: float, kind: str, status: str, reply: str
) -> bytes:
    queue_id = f"4{zlib.crc32(sent.message_id.encode()):09X}z"
    word = {"delivery": "sent", "delay": "deferred", "bounce": "bounced"}[kind]
    relay = f"{provider.host}[{provider.ip}]"
    text = reply if kind == "delivery" else f"host {relay} said: {reply} (in reply to RCPT TO command)"
    return (
        f"{at.isoformat(timespec='microseconds')} mta2 postfix/smtp[2417]: {queue_id}: to=<{sent.recipient}>, "
        f"relay={relay}:25, delay={seconds}, delays=0.1/0.01/0.2/{seconds}, "
        f"dsn={status}, status={word} ({text})"
    ).encode()
