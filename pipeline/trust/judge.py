"""The trust of a report, from what stands at the places where something of ours may stand (DESIGN 5)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from mailecho.pipeline.trust.own import Own
from mailecho.pipeline.trust.places import CONFIDENCE, Place, candidates
from mailecho.pipeline.trust.token import BadToken, Expired, Forged, Token, tokens_in, verify_token


@dataclass(frozen=True, slots=True)
class Judged:
    """What a report proves. `token` is a valid one of ours, found at `place` with `confidence` in its recipient.

    `ours`: it names us, without proof. `forged`: it claims to be ours and is provably not; `wrong` says that it bears
    a token which our key did not sign. `expired`: a token of ours, past its last day.
    """

    token: Token | None = None
    place: Place = Place.TEXT
    confidence: float = 0.0
    ours: bool = False
    forged: bool = False
    wrong: bool = False
    expired: bool = False


def judge(found: Iterable[tuple[Place, str]], named: Iterable[str], own: Own, now_ms: int | None = None) -> Judged:
    """Judge a report by the values at its places, in the order of the ladder, and by the addresses and domains that it
    says are the sender's.

    The first valid token counts. A wrong signature is proof of a forgery only where no token is valid, and never in
    words, where anything may look like a token. `now_ms` is when the report came (epoch milliseconds UTC).
    """
    wrong = expired = shaped = claimed = False
    for place, value in found:
        if not value:
            continue
        if _claims(place, value, own):
            claimed = True
            shaped = shaped or bool(tokens_in(value))  # its key may be one that we have dropped
        for text in candidates(place, value) if own.keys else ():
            try:
                token = verify_token(own.keys, text, now_ms=now_ms)
            except Expired:
                expired = True
            except Forged:
                wrong = wrong or place is not Place.TEXT
            except BadToken:
                continue
            else:
                return Judged(token, place, CONFIDENCE.get(place, 1.0), ours=True)
    missing = claimed and own.tokens_required and bool(own.keys) and not shaped
    ours = claimed or expired or any(own.names(value, own.domains) for value in named if value)
    return Judged(ours=ours, forged=(wrong or missing) and not expired, wrong=wrong, expired=expired)


def _claims(place: Place, value: str, own: Own) -> bool:
    """Whether a return path or a Message-ID says that it is ours."""
    if place is Place.VERP:
        return own.names(value, own.bounce_domains)
    return place is Place.MESSAGE_ID and own.names(value, own.message_id_domains or own.domains)
