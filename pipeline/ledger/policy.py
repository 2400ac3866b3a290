"""Suppression policy: a pure function from a subject's facts to what the list says of it.

Facts are kept as a set with a commutative merge (by message the newest, then the newest K), so the
decision depends on what happened and when, never on the order in which reports came in
(DESIGN 2, point 11).
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mailecho.schemas.suppression import Scope, State
from mailecho.schemas.taxonomy import TRUST_RANK, Cause, Kind, Permanence, Trust

DAY_MS = 86_400_000
HOUR_MS = 3_600_000

#: Facts kept for a rule beyond what it counts: enough that late reports find their neighbours, and
#: a bound on an entry's size whatever is sent at one address (16 facts are about 2 kB).
KEEP_AT_LEAST = 16


class PolicyError(ValueError):
    """A policy file that cannot be used; the message names the file, the rule and the field."""


class Rule(BaseModel):
    """One rule of the policy file; empty lists match everything."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(pattern=r"^[a-z0-9-]{1,40}$")
    reason: str = Field(pattern=r"^[a-z_]{1,40}$")
    subject: Literal["address", "domain"] = "address"
    scope: Scope = Scope.TENANT
    kinds: tuple[Kind, ...] = Field(min_length=1)
    causes: tuple[Cause, ...] = ()
    permanence: tuple[Permanence, ...] = ()
    feedback_types: tuple[str, ...] = ()
    min_confidence: float = Field(0.0, ge=0, le=1)
    min_trust: Trust = Trust.UNVERIFIED
    count: int = Field(1, ge=1, le=KEEP_AT_LEAST)
    within_days: float = Field(36_500.0, gt=0)
    apart_hours: float = Field(0.0, ge=0)
    expires_days: float = Field(0.0, ge=0, description="0: never")
    reset_by_delivery: bool = False


class Policy(BaseModel):
    """All rules, in the order in which they name the reason."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str = Field(min_length=1, max_length=60)
    rule: tuple[Rule, ...]

    def fingerprint(self) -> str:
        """16 hex digits that change with any field."""
        text = orjson.dumps(self.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)
        return hashlib.sha256(text).hexdigest()[:16]


def load_policy(file: Path | None = None) -> Policy:
    """The policy of a TOML file, or the default one. Raises PolicyError."""
    try:
        text = file.read_text("utf-8") if file else files(__package__).joinpath("policy.toml").read_text("utf-8")
        return parse_policy(tomllib.loads(text))
    except OSError as error:
        raise PolicyError(f"policy_file {file}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, PolicyError) as error:
        raise PolicyError(f"policy_file {file or 'policy.toml'}: {error}") from None


def parse_policy(data: dict[str, Any]) -> Policy:
    """A policy from its data. Raises PolicyError naming rule and field."""
    try:
        policy = Policy.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise PolicyError(f"{where}: {first['msg']}") from None
    names = [rule.id for rule in policy.rule]
    if len(set(names)) != len(names):
        raise PolicyError("rule.id: two rules have the same id")
    return policy


@dataclass(frozen=True, slots=True)
class Incident:
    """What policy looks at in one event: times are epoch milliseconds, `at` never after `received`."""

    event_id: str
    kind: str
    at: int
    cause: str = ""
    permanence: str = "unknown"
    feedback_type: str = ""
    confidence: float = 1.0
    trust: str = "unverified"
    message: str = ""


#: (at, message key, event id, cause, trust): as stored in an entry.
FactRow = tuple[int, str, str, str, str]


@dataclass(slots=True)
class Facts:
    """All that is known of one (scope, subject). `rows` is by rule id."""

    rows: dict[str, list[FactRow]] = field(default_factory=dict)
    reset: int = 0  # time of the newest fact that a later verified delivery has answered
    released: int = 0  # time of the last manual release: what happened until then counts no more
    manual: dict[str, Any] | None = None  # the manual add in force

    def to_json(self) -> dict[str, Any]:
        """The form in which an entry carries it; defaults left out."""
        out: dict[str, Any] = {}
        if self.rows:
            out["rows"] = self.rows
        if self.reset:
            out["reset"] = self.reset
        if self.released:
            out["released"] = self.released
        if self.manual:
            out["manual"] = self.manual
        return out

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Facts:
        """The inverse of `to_json`."""
        rows = {rule: [(r[0], r[1], r[2], r[3], r[4]) for r in facts] for rule, facts in data.get("rows", {}).items()}
        return cls(rows, data.get("reset", 0), data.get("released", 0), data.get("manual"))


def matching(policy: Policy, incident: Incident, subject: str) -> list[Rule]:
    """The rules that count this incident. Trust is weighed later: a fact may be confirmed."""
    return [
        rule
        for rule in policy.rule
        if rule.subject == subject
        and incident.kind in rule.kinds
        and (not rule.causes or incident.cause in rule.causes)
        and (not rule.permanence or incident.permanence in rule.permanence)
        and (not rule.feedback_types or incident.feedback_type in rule.feedback_types)
        and incident.confidence >= rule.min_confidence
    ]


def merge(rows: list[FactRow], new: FactRow) -> list[FactRow]:
    """The set with `new` in it: by message the newest, then the newest of all, in order of time.

    Commutative, associative and idempotent; a test holds that. It is so because one total order
    (time, trust, id, cause) picks both: by message its greatest, and of those the K greatest.
    """
    by_message = {row[1]: row for row in rows}
    known = by_message.get(new[1])
    if known is None or _rank(new) > _rank(known):
        by_message[new[1]] = new
    return sorted(by_message.values(), key=_rank)[-KEEP_AT_LEAST:]


def _rank(row: FactRow) -> tuple[int, int, str, str]:
    return row[0], TRUST_RANK[Trust(row[4])], row[2], row[3]


@dataclass(frozen=True, slots=True)
class Decision:
    """What the list says of a subject. Times are epoch milliseconds; `expires` 0 is never."""

    state: State
    reason: str = ""
    cause: str = ""
    created: int = 0
    expires: int = 0
    source: str = ""
    event_ids: tuple[str, ...] = ()
    count: int = 0
    first: int = 0
    last: int = 0


def decide(policy: Policy, facts: Facts) -> Decision:
    """The decision that these facts and this policy give."""
    if facts.manual:
        manual = facts.manual
        return Decision(
            State.ACTIVE,
            reason=manual["reason"],
            created=manual["at"],
            expires=manual.get("expires", 0),
            source="manual",
        )
    best: Decision | None = None
    lapsed: Decision | None = None  # what would hold, had no delivery come
    latest: Decision | None = None
    for rule in policy.rule:
        rows = facts.rows.get(rule.id)
        if not rows:
            continue
        needed = TRUST_RANK[rule.min_trust]
        counted = [r for r in rows if r[0] > facts.released and TRUST_RANK[Trust(r[4])] >= needed]
        latest = latest or _of(State.WATCH, rule, rows, 0, 0)
        fresh = [r for r in counted if r[0] > facts.reset] if rule.reset_by_delivery else counted
        found = _triggered(rule, fresh)
        if found:
            if best is None or _longer(found, best):
                best = found
        elif rule.reset_by_delivery and lapsed is None:
            lapsed = _triggered(rule, counted)
    if best:
        return best
    if lapsed:
        return Decision(State.RELEASED, lapsed.reason, lapsed.cause, lapsed.created, lapsed.expires, "delivery")
    if facts.released:
        return Decision(State.RELEASED, source="manual", created=facts.released)
    return latest or Decision(State.RELEASED)


def _triggered(rule: Rule, rows: list[FactRow]) -> Decision | None:
    within, apart = int(rule.within_days * DAY_MS), int(rule.apart_hours * HOUR_MS)
    start, first_at, last_at = 0, 0, 0
    for end, row in enumerate(rows):
        while row[0] - rows[start][0] > within:
            start += 1
        if end - start + 1 >= rule.count and row[0] - rows[start][0] >= apart:
            first_at, last_at = first_at or row[0], row[0]
    return _of(State.ACTIVE, rule, rows, first_at, last_at) if last_at else None


def _of(state: State, rule: Rule, rows: list[FactRow], created: int, decided: int) -> Decision:
    expires = decided + int(rule.expires_days * DAY_MS) if rule.expires_days and decided else 0
    return Decision(
        state,
        reason=rule.reason,
        cause=rows[-1][3],
        created=created,
        expires=expires,
        source=rule.id,
        event_ids=tuple(r[2] for r in rows[-5:]),
        count=len(rows),
        first=rows[0][0],
        last=rows[-1][0],
    )


def _longer(a: Decision, b: Decision) -> bool:
    if a.expires == 0 or b.expires == 0:
        return a.expires == 0 and b.expires != 0
    return a.expires > b.expires


def newest_answered(facts: Facts, policy: Policy, delivered: int) -> int:
    """The time of the newest resettable fact at or before `delivered`, or 0: what an entry keeps of a delivery.

    The delivery itself is not kept: two histories that differ only in deliveries that answered
    nothing give the same entry.
    """
    times: Iterable[int] = (
        row[0]
        for rule in policy.rule
        if rule.reset_by_delivery
        for row in facts.rows.get(rule.id, ())
        if row[0] <= delivered
    )
    return max(times, default=0)
