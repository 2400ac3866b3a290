"""The trust of a report, from what stands at the places where something of ours may stand (DESIGN 5)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mailecho.pipeline.trust.own import Own
from mailecho.pipeline.trust.places import CONFIDENCE, Place, candidates
from mailecho.pipeline.trust.token import BadToken, Expired, Forged, Token, verify_token

_LADDER = {place: rank for rank, place in enumerate(Place)}


@dataclass(frozen=True, slots=True)
class Judged:
    """What a report proves. `token` is a valid one of ours, found at `place` with `confidence` in its recipient.

    `ours`: it names us, without proof. `forged`: it claims to be ours and is provably not.
    """

    token: Token | None = None
    place: Place = Place.TEXT
    confidence: float = 0.0
    ours: bool = False
    forged: bool = False


def judge(found: Iterable[tuple[Place, str]], named: Sequence[str], own: Own, now_ms: int | None = None) -> Judged:
    """Judge a report by the values at its places and by the addresses and domains that it says are the sender's.

    The best place of the ladder counts. A wrong signature is proof of a forgery only where no token is valid, and
    never in words, where anything may look like a token. `now_ms` is when the report came (epoch milliseconds UTC).
    """
    values = sorted((item for item in found if item[1]), key=lambda item: _LADDER[item[0]])
    ours = any(own.names(value, own.domains) for value in named if value)
    wrong = seen = False
    if own.keys:
        for place, value in values:
            for text in candidates(place, value):
                try:
                    token = verify_token(own.keys, text, now_ms=now_ms)
                except Expired:
                    ours = seen = True
                except Forged:
                    wrong = wrong or place is not Place.TEXT
                except BadToken:
                    continue
                else:
                    return Judged(token, place, CONFIDENCE.get(place, 1.0), ours=True)
    claimed = [value for place, value in values if _claims(place, value, own)]
    if wrong and not seen:
        return Judged(forged=True, ours=ours)
    if claimed and own.keys and own.tokens_required and not seen and not _retired(claimed):
        return Judged(forged=True, ours=ours)
    return Judged(ours=ours or bool(claimed))


def _claims(place: Place, value: str, own: Own) -> bool:
    """Whether a return path or a Message-ID says that it is ours."""
    if place is Place.VERP:
        return own.names(value, own.bounce_domains)
    return place is Place.MESSAGE_ID and own.names(value, own.message_id_domains or own.domains)


def _retired(claimed: Sequence[str]) -> bool:
    """Whether one has the shape of a token, whose key we may have dropped: that proves nothing."""
    return any(candidates(Place.TEXT, value) for value in claimed)
