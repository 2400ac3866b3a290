"""The volume that `bench volume` sends: what a large sender's machines write in an ordinary hour.

Of a hundred events about 60 are deliveries, 28 injections, 7 delays and 5 bounces, over a million recipients. A
quarter comes as Postfix's log lines, the rest as JSON of source `mailecho`. What is the same for the same seed is all
of it but the time, which is the caller's: the dedupe windows are about now.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from random import Random

import orjson

RECIPIENTS = 1_000_000

#: Entries of a batch record.
BATCH = 100

#: One raw record of `feedback.raw.delivery`: its source and its value.
Record = tuple[str, bytes]

_DOMAINS = (
    *(("gmail.com", "gmail-smtp-in.l.google.com", "142.250.153.27"),) * 7,
    *(("yahoo.com", "mta5.am0.yahoodns.net", "67.195.204.74"),) * 3,
    *(("outlook.com", "outlook-com.olc.protection.outlook.com", "52.101.73.31"),) * 4,
    *((f"example{n}.org", f"mx1.example{n}.org", f"198.51.100.{n}") for n in range(1, 9)),
)
_IPS = tuple(f"192.0.2.{n}" for n in range(1, 33))
_ACCEPTED = "250 2.0.0 OK {n:x} m-{n:x}.{k} - gsmtp"
_BOUNCES = (
    (550, "5.1.1", "550-5.1.1 The email account that you tried to reach does not exist. {n:x}.{k} - gsmtp", "rcpt"),
    (
        554,
        "5.7.1",
        "554 5.7.1 Service unavailable; Client host [192.0.2.{k}] blocked using zen.spamhaus.org",
        "connect",
    ),
    (552, "5.2.2", "552 5.2.2 <{to}>: mailbox full, {n} bytes over quota", "rcpt"),
    (
        550,
        "5.7.26",
        "550 5.7.26 Unauthenticated email is not accepted due to domain's DMARC policy. {n:x}",
        "end_of_data",
    ),
)
_DELAYS = (
    (421, "4.7.0", "421 4.7.0 [TSS04] Messages from 192.0.2.{k} temporarily deferred due to user complaints", "mail"),
    (451, "4.7.1", "451 4.7.1 <{to}>: Recipient address rejected: Greylisted, try again in {k} seconds", "rcpt"),
    (452, "4.2.2", "452 4.2.2 The email account that you tried to reach is over quota {n:x}.{k} - gsmtp", "rcpt"),
)


def singles(events: int, now: float, seed: int = 1) -> Iterator[Record]:
    """So many records of one entry each; `now` in epoch seconds is when the last one happened."""
    rng = Random(seed)
    started = now - 3600.0
    pending: list[Record] = []
    for number in range(events):
        if not pending:
            # the fates of a few thousand mails beside their injections, in no order
            pending = _mails(rng, number, min(5_000, events - number), started + 3600.0 * number / events)
        yield pending.pop()


def batches(events: int, now: float, seed: int = 1) -> Iterator[Record]:
    """The same events in records of BATCH entries of one source: arrays of JSON or chunks of lines by turns."""
    waiting: dict[str, list[bytes]] = {}
    arrays = 0
    for source, value in singles(events, now, seed):
        entries = waiting.setdefault(source, [])
        entries.append(value)
        if len(entries) == BATCH:
            arrays += source == "mailecho"
            yield source, _joined(entries, array=source == "mailecho" and arrays % 2 == 0)
            entries.clear()
    for source, entries in waiting.items():
        if entries:
            yield source, _joined(entries, array=False)


def _joined(entries: list[bytes], *, array: bool) -> bytes:
    return b"[" + b",".join(entries) + b"]" if array else b"\n".join(entries)


def _mails(rng: Random, number: int, count: int, at: float) -> list[Record]:
    made: list[Record] = []
    while len(made) < count:
        number += 1
        person = rng.randrange(RECIPIENTS)
        domain, host, ip = _DOMAINS[person % len(_DOMAINS)]
        to = f"user{person}@{domain}"
        when = at + rng.random() * 10
        share = rng.random()
        kind = "delivery" if share < 0.83 else "delay" if share < 0.93 else "bounce"
        if rng.random() < 0.34:
            made.append(("postfix", _postfix(rng, kind, to, host, ip, number, when)))
            continue
        message = f"{number:x}.{rng.randrange(1 << 40):x}@mail.example.com"
        made += [("mailecho", line) for line in _esp(rng, kind, to, host, ip, message, when)]
    del made[count:]
    rng.shuffle(made)
    return made


def _reply(rng: Random, kind: str, to: str) -> tuple[int, str, str, str]:
    if kind == "delivery":
        code, status, text, stage = 250, "2.0.0", _ACCEPTED, "end_of_data"
    else:
        code, status, text, stage = rng.choice(_DELAYS if kind == "delay" else _BOUNCES)
    return code, status, text.format(to=to, n=rng.randrange(1 << 36), k=rng.randrange(1, 255)), stage


def _esp(rng: Random, kind: str, to: str, host: str, ip: str, message: str, at: float) -> Iterator[bytes]:
    code, status, text, stage = _reply(rng, kind, to)
    sender = rng.choice(_IPS)
    common = {
        "recipient": to,
        "message_id": message,
        "mail_from": f"bounce-{message[:8]}@mail.example.com",
        "stream": "news",
        "campaign": f"weekly-{int(at) // 900 % 40}",
        "pool": "shared",
        "source_host": "out3.mail.example.com",
        "sending_ip": sender,
        "size_bytes": 20_000 + rng.randrange(60_000),
    }
    if rng.random() < 0.65:
        yield orjson.dumps({"kind": "injection", "occurred_at": round(at, 3), **common})
    yield orjson.dumps(
        {
            "kind": kind,
            "occurred_at": round(at + 2, 3),
            **common,
            "remote_host": host,
            "remote_ip": ip,
            "stage": stage,
            "smtp_code": code,
            "status": status,
            "diagnostic": text,
            "attempt": 1,
            "queue_seconds": round(rng.random() * 9, 2),
            "tls": "TLSv1.3",
        }
    )


_STATUS = {"delivery": "sent", "delay": "deferred", "bounce": "bounced"}
_COMMANDS = {"rcpt": "RCPT TO", "mail": "MAIL FROM", "end_of_data": "end of DATA", "connect": "end of DATA"}


def _postfix(rng: Random, kind: str, to: str, host: str, ip: str, number: int, at: float) -> bytes:
    _, status, text, stage = _reply(rng, kind, to)
    said = f"host {host}[{ip}] said: {text} (in reply to {_COMMANDS[stage]} command)" if kind != "delivery" else text
    stamp = datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds")
    delay = round(rng.random() * 9, 2)
    return (
        f"{stamp} out{number % 4}.mail.example.com postfix/smtp[{1000 + number % 5000}]: 4{number:010X}z: to=<{to}>, "
        f"relay={host}[{ip}]:25, delay={delay}, delays=0.1/0/0.5/{delay}, dsn={status}, "
        f"status={_STATUS[kind]} ({said})"
    ).encode()
