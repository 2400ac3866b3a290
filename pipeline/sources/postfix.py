"""Postfix's delivery log, as syslog or `maillog_file` writes it (`source: postfix`).

Read are the lines that say what became of one recipient, written by any delivery agent (smtp, lmtp,
local, virtual, pipe, error) and by qmgr and cleanup where they bounce themselves, in the form of
Postfix's `src/global/log_adhoc.c`:

    QUEUEID: to=<A>, [orig_to=<B>,] relay=R, [conn_use=N,] delay=S, delays=…, [tls=…,] dsn=X, status=W (TEXT)

and qmgr's `from=<A>, status=expired`. Every other line tells of no event.

* The recipient is `orig_to` where it is an address: that is where we sent to, `to` is what an alias
  made of it.
* The queue id, with the host before it, is the event's `envelope_id`: it joins the lines about one
  message. The Message-ID stands in another line (cleanup's), which a reader without memory cannot join.
* Not counted, since another queue id's lines tell the fate: `sent (forwarded as …)` of local aliases,
  and `sent` over smtp to a loopback port other than 25 (a content filter). `discard` delivers to nobody.
  `deliverable` and `undeliverable` are address probes, no mail.
* `NOQUEUE: reject` of smtpd is mail that others wanted to send us: no feedback.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mailecho.pipeline.finding import Finding, Unreadable
from mailecho.pipeline.sources.clock import instant_ms, syslog_ms
from mailecho.pipeline.sources.entry import Context, Rejected, is_address, is_ip, lines, rejected
from mailecho.pipeline.sources.verdict import judge
from mailecho.pipeline.stages import IN_REPLY, stage_of
from mailecho.schemas.deadletter import Reason
from mailecho.schemas.taxonomy import Cause, Kind, Permanence, Trust

NAME = "postfix"

#: A reply in parentheses has 2 kB at most in Postfix (`var_line_limit`); what is longer is cut.
_MAX_TEXT = 4_000
#: log_adhoc.c writes seven fields at most before `status=`.
_MAX_FIELDS = 16

_HEAD = re.compile(
    r"(?:<\d{1,3}>)?"
    r"(?P<stamp>[A-Z][a-z]{2} [ \d]?\d \d\d:\d\d:\d\d|\d{4}-\d\d-\d\d[T ][\d:.,]{8,18}(?:Z|[+-]\d\d:?\d\d)?) "
    r"(?P<host>\S{1,255}) (?P<tag>[^\s\[:]{1,100})(?:\[\d{1,10}\])?: (?P<text>.*)",
    re.DOTALL,
)
_QUEUE_ID = re.compile(r"([0-9A-Za-z]{5,32}): (.*)", re.DOTALL)

# Postfix writes a local part that needs it in quotes (info_log_address_format), so `>` and `, ` may stand inside.
_ADDRESS = r'<((?>(?:"(?:[^"\\]|\\.)*+"|[^">])*+))>, '
_TO = re.compile(rf"to={_ADDRESS}(?:orig_to={_ADDRESS})?(?=relay=)")
_LOOSE_TO = re.compile(r"to=<(.*?)>, (?:orig_to=<(.*?)>, )?(?=relay=)")
_EXPIRED = re.compile(r"from=<(.*?)>, status=(?:force-)?expired\b")

_SAID = re.compile(r"host (\S{1,255}?)\[([^\]]{1,100})\](?::\d+)? (said|refused to talk to me): (.*)", re.DOTALL)
_IN_REPLY = re.compile(rf" {IN_REPLY.pattern}$")
_CONNECT = re.compile(r"connect to ([^\s\[]{1,255})\[([^\]]{1,100})\]")
_WHILE = re.compile(r"with ([^\s\[]{1,255})\[([^\]]{1,100})\](?::\d+)?(?: timed out)? while ([A-Za-z -]{1,80})")
_CODE = re.compile(r"([245]\d\d)(?=[ -]|$)")
_DSN = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")
_TAG = re.compile(rb"postfix[^\s/\[]{0,60}(?:/[\w.-]{1,60}){1,4}\[\d{1,10}\]: ")

_KINDS = {
    "sent": Kind.DELIVERY,
    "deferred": Kind.DELAY,
    "bounced": Kind.BOUNCE,
    "SOFTBOUNCE": Kind.DELAY,  # soft_bounce=yes: it stays in the queue
    "expired": Kind.EXPIRY,
}
_NO_EVENT = frozenset(("deliverable", "undeliverable"))


def recognise(value: bytes) -> bool:
    """Whether a record is a Postfix log for certain: a `postfix…/daemon[pid]:` tag near its start."""
    return _TAG.search(value, 0, 8192) is not None


def read(value: bytes, context: Context) -> Iterator[Finding | Rejected]:
    """The events of one record: a line, or a chunk of lines."""
    for index, line in lines(value):
        if isinstance(line, Rejected):
            yield line
            continue
        try:
            event = finding(line.decode("utf-8", "replace"), context)
        except Unreadable as error:
            yield rejected(index, error, line)
            continue
        if event is not None:
            yield event


def finding(line: str, context: Context) -> Finding | None:
    """The event that one line tells of, or None. Raises Unreadable for what is no syslog line, or is cut."""
    head = _HEAD.match(line)
    if head is None:
        raise Unreadable("not a syslog line: expected `time host postfix/daemon[pid]: text`")
    stamp, host, tag, text = head.group("stamp", "host", "tag", "text")
    queue = _QUEUE_ID.match(text)
    rest = queue.group(2) if queue else ""
    expired = _EXPIRED.match(rest) if rest.startswith("from=<") else None
    if not rest.startswith("to=<") and expired is None:
        if context.seen_ms is None:
            context.seen_ms = _when(stamp, context)
        return None
    assert queue is not None
    result = Finding(
        Kind.EXPIRY,
        source=context.source,
        source_host=host,
        trust=Trust.VERIFIED,
        tenant=context.tenant,
        stream=context.stream,
        envelope_id=f"{host}/{queue.group(1)}",
        occurred_at_ms=_when(stamp, context),
        occurred_at_raw=stamp,
    )
    if expired is not None:
        # the recipients are not named: the deferrals before have told of each
        result.mail_from = expired.group(1)
        result.cause, result.permanence = Cause.EXPIRED, Permanence.TRANSIENT
        result.confidence, result.rule_id = 1.0, "postfix.expired"
        result.identity = (host, queue.group(1), stamp, "expired")
        return result
    return _recipient_line(result, rest, queue.group(1), stamp, tag.rpartition("/")[2], context)


def _recipient_line(
    result: Finding, rest: str, queue_id: str, stamp: str, daemon: str, context: Context
) -> Finding | None:
    match = _TO.match(rest) or _LOOSE_TO.match(rest)
    if match is None:
        if "status=" not in rest:
            raise Unreadable("the line ends before `status=`: it was cut")
        raise Unreadable("no `relay=` after the recipient: not a line that Postfix writes")
    to, orig_to = match.group(1), match.group(2) or ""
    fields, word, text = _fields(rest[match.end() :])
    kind = _KINDS.get(word)
    if kind is None and word not in _NO_EVENT:
        raise Unreadable(f"status={word[:30]}: not a status that Postfix writes", Reason.INVALID.value)
    relay = fields.get("relay", "")
    remote_host, remote_ip, port = _relay(relay)
    handed_on = kind is Kind.DELIVERY and (
        daemon == "discard"
        or text.startswith("forwarded as ")
        or (daemon == "smtp" and port not in ("", "25") and (remote_ip.startswith("127.") or remote_ip == "::1"))
    )
    if kind is None or handed_on:
        if context.seen_ms is None:
            context.seen_ms = result.occurred_at_ms
        return None
    dsn = fields.get("dsn", "")
    result.kind = kind
    result.recipient = orig_to if is_address(orig_to) else to if is_address(to) else ""
    result.remote_host, result.remote_ip = remote_host, remote_ip
    result.status = dsn if _DSN.fullmatch(dsn) else ""
    result.queue_seconds = _seconds(fields.get("delay", ""))
    result.tls = fields.get("tls", "")[:64]
    result.identity = (result.source_host, queue_id, to, orig_to, stamp, dsn, relay)
    _reply(result, text[:_MAX_TEXT])
    judge(result)
    return result


def _fields(rest: str) -> tuple[dict[str, str], str, str]:
    """(fields before the status, the status word, the text in parentheses)."""
    fields: dict[str, str] = {}
    for _ in range(_MAX_FIELDS):
        name, equals, rest = rest.partition("=")
        if not equals:
            break
        if name == "status":
            word, _, text = rest.partition(" ")
            return fields, word, text.removeprefix("(").removesuffix(")")
        fields[name], _, rest = rest.partition(", ")
    raise Unreadable("the line ends before `status=`: it was cut")


def _relay(relay: str) -> tuple[str, str, str]:
    """(host, IP, port) of `host[ip]:port`; empty for `none`, a transport's name or a local socket."""
    host, bracket, rest = relay.partition("[")
    ip, _, port = rest.partition("]")
    if not bracket or not is_ip(ip):
        return "", "", ""
    return host[:255], ip, port.removeprefix(":")


def _reply(result: Finding, text: str) -> None:
    """The server's own words, its code and the stage, from the text in parentheses."""
    result.diagnostic = text
    said = _SAID.search(text)
    if said is not None:
        host, ip, verb, reply = said.groups()
        stage = _IN_REPLY.search(reply)
        result.diagnostic = reply[: stage.start()] if stage else reply
        result.stage = stage_of(stage.group(1)) if stage else "connect" if verb.startswith("refused") else ""
    else:
        where = _WHILE.search(text)
        connect = where or _CONNECT.search(text)
        if connect is not None:
            host, ip = connect.group(1, 2)
            result.stage = stage_of(where.group(3)) if where else "connect"
    if not result.remote_host and (said or connect):
        result.remote_host, result.remote_ip = host, ip if is_ip(ip) else ""
    code = _CODE.match(result.diagnostic)
    if code is not None:
        result.smtp_code = int(code.group(1))


def _seconds(text: str) -> float:
    try:
        return min(max(float(text), 0.0), 1e9)
    except ValueError:
        return 0.0


def _when(stamp: str, context: Context) -> int:
    """Epoch milliseconds of the line's stamp. Raises Unreadable."""
    try:
        if stamp[0].isdigit():
            return instant_ms(stamp, context.utc_offset_minutes)
        return syslog_ms(stamp, context.received_at_ms, context.utc_offset_minutes)
    except ValueError:
        raise Unreadable(f"not a time: {stamp!r}", Reason.INVALID.value) from None
