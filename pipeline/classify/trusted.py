"""The trust of findings, and the recipients that a token or the Message-ID map gives back."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mailecho.pipeline.classify.recipients import is_placeholder
from mailecho.pipeline.finding import NOBODY, Finding
from mailecho.pipeline.trust.judge import Judged, judge
from mailecho.pipeline.trust.own import Own
from mailecho.pipeline.trust.places import HEADER, Place
from mailecho.schemas.taxonomy import Kind, Trust

if TYPE_CHECKING:
    from mailecho.pipeline.classify.letter import Letter
    from mailecho.pipeline.message.headers import Headers

_DKIM_DOMAIN = "d="
#: Fields of the feedback part and of the returned message, in the order of the ladder.
_NAMES = (
    (Place.CFBL, ("cfbl-feedback-id",)),
    (Place.HEADER, (HEADER.lower(),)),
    (Place.VERP, ("return-path", "original-mail-from")),
    (Place.ENVELOPE_ID, ("original-envelope-id",)),
    (Place.MESSAGE_ID, ("message-id", "original-message-id")),
    (Place.LIST_UNSUBSCRIBE, ("list-unsubscribe",)),
)
#: What a forger gains by: a bounce that never was. A complaint about mail forged in our name stays one, untrusted.
_BOUNCES = frozenset((Kind.BOUNCE, Kind.DELAY, Kind.EXPIRY))


def settle_trust(letter: Letter, findings: list[Finding], own: Own, now_ms: int | None) -> Judged:
    """Set trust, and for lost recipients the recipient key, of one report's findings. Gives what decided it.

    `now_ms` is when the report came (epoch milliseconds UTC).

    A token is bound to one recipient, and only that one is verified: who holds a token of his own could otherwise
    forge a report about anybody. Where a single finding names another address (a forward's target, a placeholder),
    the token's recipient is who we sent to. A token without recipient proves the message only: plausible.
    """
    judged = judge(_places(letter, findings), _named(letter, findings), own, now_ms)
    for finding in findings:
        if judged.ours and not judged.forged:
            finding.trust = Trust.PLAUSIBLE
        if judged.forged and finding.kind in _BOUNCES:
            finding.kind = Kind.BACKSCATTER
    if judged.token is not None:
        _use_token(judged, findings, own)
    if own.recipients_of is not None:
        for finding in findings:
            _use_map(finding, own)
    return judged


def _use_token(judged: Judged, findings: list[Finding], own: Own) -> None:
    token = judged.token
    assert token is not None
    for finding in findings:
        finding.tenant = finding.tenant or token.tenant
        finding.message_id = finding.message_id or token.message
    if not token.recipient_key:
        return
    step = f"token_{judged.place.value}"
    alike = [f for f in findings if _key(f, own) == token.recipient_key]
    for finding in alike:
        finding.trust = Trust.VERIFIED
    if not alike and len(findings) == 1:
        finding = findings[0]
        if not is_placeholder(finding.recipient):
            finding.recipient = ""  # a forward's target: its domain is not our recipient's
        finding.recipient_key = token.recipient_key
        finding.trust = Trust.VERIFIED
        finding.recovery = step
        alike = [finding]
    for finding in alike:
        if finding.recovery:  # of complaints, and of what was recovered here
            finding.recovery, finding.confidence = step, judged.confidence


def _use_map(finding: Finding, own: Own) -> None:
    if finding.recovery not in NOBODY or not finding.message_id or own.recipients_of is None:
        return
    keys = own.recipients_of(finding.message_id)
    if len(keys) == 1:  # of several nobody can say which
        finding.recipient_key, finding.recovery, finding.confidence = keys[0], "message_id_map", 0.9


def _key(finding: Finding, own: Own) -> str:
    if not finding.recipient or own.recipient_key is None or finding.recovery in NOBODY:
        return ""
    return own.recipient_key(finding.recipient)


def _places(letter: Letter, findings: list[Finding]) -> Iterator[tuple[Place, str]]:
    """What stands where a token of ours may stand: in the report's envelope, its fields, and what it returns.

    In the order of the ladder, and made as it is asked for: the first token that is valid ends the search.
    """
    first, blocks, headers = findings[0], _blocks(letter), letter.headers
    for place, names in _NAMES:
        for block in blocks:
            for name in names:
                yield place, block.first(name)
        if place is Place.VERP:
            yield place, first.mail_from
            for name in ("to", "delivered-to", "x-original-to", "envelope-to"):  # where the report was sent to
                yield place, headers.first(name)
        elif place is Place.ENVELOPE_ID:
            yield place, first.envelope_id
        elif place is Place.MESSAGE_ID:
            yield place, first.message_id
            for name in ("in-reply-to", "references"):
                yield place, headers.first(name)
        elif place is Place.LIST_UNSUBSCRIBE and first.kind is Kind.UNSUBSCRIBE:
            yield place, letter.subject  # a mailto has its token in the subject or the address
            yield place, headers.first("to")
    yield Place.TEXT, letter.text[:8_000]


def _blocks(letter: Letter) -> list[Headers]:
    """The fields of the complaint where it is one, and the headers of what is returned, the last."""
    told = letter.told
    if told is None:
        return [letter.returned]
    return [told.fields, letter.returned if told.returned is None else told.returned]


def _named(letter: Letter, findings: list[Finding]) -> Iterator[str]:
    """Addresses and domains that the report says are the sender's."""
    returned = _blocks(letter)[-1]
    for name in ("from", "message-id", "return-path"):
        yield returned.first(name)
    for signature in returned.all("dkim-signature")[:10]:
        for tag in signature.split(";")[:20]:
            if tag.strip().startswith(_DKIM_DOMAIN):
                yield tag.strip()[len(_DKIM_DOMAIN) :].strip()
    yield findings[0].message_id
    yield findings[0].mail_from
