"""From the entries that concern an address to one answer: may it be mailed? Pure.

The most restrictive entry decides (domain-reference 4.2): `active` without an end, then `active`
until the latest time, then `held` until the latest time. Entries that deny nothing (watch, released,
expired, or an end that has passed) still show in the answer when nothing denies.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from mailecho.pipeline.times import row_time
from mailecho.schemas.suppression import Scope, State

_LAST_MS = 253_402_300_799_999  # the end of the year 9999, the last that RFC 3339 can write
_FOR_EVER = _LAST_MS + 1
_SCOPE_ORDER = {Scope.GLOBAL: 2, Scope.TENANT: 1, Scope.STREAM: 0}


class EvidenceAnswer(TypedDict):
    """Why: ids of events, how many reports, the first and the last (RFC 3339, UTC)."""

    event_ids: list[str]
    count: int
    first: str | None
    last: str | None


class Answer(TypedDict):
    """May this address be mailed? Times are RFC 3339 in UTC; what is not known is null."""

    address: str
    allowed: bool
    decision: str  # allow, deny, deny_until
    until: str | None
    reason: str | None
    cause: str | None
    state: str | None
    scope: str | None
    subject: str | None  # whose entry decided: address, or domain
    actor: str | None
    note: str | None
    version: int | None
    evidence: EvidenceAnswer


def decide(address: str, entries: Sequence[dict[str, Any]], now_ms: int) -> Answer:
    """The answer for an address as asked for, from its entries (`SuppressionEntry` as JSON objects).

    `now_ms` is epoch milliseconds. An active entry that ends is `deny` with `until`; a held one is
    `deny_until`, and its `until` is null where it waits for something else than a time.
    """
    if not entries:
        return {
            "address": address,
            "allowed": True,
            "decision": "allow",
            "until": None,
            "reason": None,
            "cause": None,
            "state": None,
            "scope": None,
            "subject": None,
            "actor": None,
            "note": None,
            "version": None,
            "evidence": {"event_ids": [], "count": 0, "first": None, "last": None},
        }
    entry = max(entries, key=lambda e: _weight(e, now_ms)) if len(entries) > 1 else entries[0]
    denies = _denies(entry, now_ms)
    evidence = entry.get("evidence") or {}
    return {
        "address": address,
        "allowed": not denies,
        "decision": ("deny_until" if entry["state"] == State.HELD else "deny") if denies else "allow",
        "until": rfc3339(entry.get("expires", 0)) if denies else None,
        "reason": entry.get("reason") or None,
        "cause": entry.get("cause") or None,
        # an entry whose time is over says so, although the ledger has not come to it yet
        "state": State.EXPIRED.value if not denies and _may_deny(entry) else entry["state"],
        "scope": entry["scope"],
        "subject": entry["subject"],
        "actor": entry.get("actor") or None,
        "note": entry.get("note") or None,
        "version": entry["version"],
        "evidence": {
            "event_ids": evidence.get("event_ids", []),
            "count": evidence.get("count", 0),
            "first": rfc3339(evidence.get("first", 0)),
            "last": rfc3339(evidence.get("last", 0)),
        },
    }


def rfc3339(ms: int) -> str | None:
    """Epoch milliseconds as RFC 3339 text in UTC; None for 0, which stands for no time."""
    if ms <= 0:
        return None
    return row_time(min(ms, _LAST_MS)).replace(" ", "T") + "Z"


def _may_deny(entry: dict[str, Any]) -> bool:
    return entry["state"] in (State.ACTIVE, State.HELD)


def _denies(entry: dict[str, Any], now_ms: int) -> bool:
    return _may_deny(entry) and not 0 < entry.get("expires", 0) <= now_ms


def _weight(entry: dict[str, Any], now_ms: int) -> tuple[bool, bool, int, int, bool]:
    return (
        _denies(entry, now_ms),
        entry["state"] == State.ACTIVE,
        entry.get("expires", 0) or _FOR_EVER,
        # between equals the one that reaches further
        _SCOPE_ORDER[entry["scope"]],
        entry["subject"] == "domain",
    )
