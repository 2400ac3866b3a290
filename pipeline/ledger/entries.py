"""Entries of the suppression list as the fold keeps them: facts in, net changes out.

All that policy knows of a subject is inside its entry, as it stands on `feedback.suppressions`;
only the times of verified deliveries stay in the store, since there are as many as recipients.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from mailecho.pipeline.ledger.generations import Generations
from mailecho.pipeline.ledger.policy import Facts, Incident, Policy, decide, matching, merge, newest_answered
from mailecho.pipeline.ledger.store import Transaction
from mailecho.schemas.suppression import Scope, State, entry_key

ENTRIES = "entries"
PENDING = "pending"
_DUE = "due"

#: An entry that denies nothing any more is removed so long after the last that it knows of. Content
#: may be dated 400 days before its arrival; what is older than that, a rule's span (a month) and
#: the dedupe window can meet no fact that is still to come, so removing it changes no decision.
FORGET_MS = 450 * 86_400_000
#: Removed with one record at most: the rest goes with the next ones.
FORGET_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Change:
    """One net change: the topic's key and value (None removes), and the row for ClickHouse."""

    key: bytes
    value: bytes | None
    entry: dict[str, Any]


@dataclass(slots=True)
class _Working:
    """An entry that the present record touches."""

    entry: dict[str, Any]  # as stored, {} for a new one
    facts: Facts
    head: dict[str, Any]  # scope, scope_id, subject, subject_key, domain
    address: str = ""
    actor: str = ""
    note: str = ""


class Entries:
    """The entries of one partition. `begin`, any number of facts and commands, `finish`."""

    def __init__(self, window_ms: int, *, keep_addresses: bool = True, forget_ms: int = FORGET_MS) -> None:
        self._deliveries = Generations("delivered", b"delivered", window_ms)
        self._forget_ms = forget_ms
        self._keep_addresses = keep_addresses
        self._policy: Policy | None = None
        #: The kinds of event that some rule about addresses counts.
        self.counted: frozenset[str] = frozenset()

    def begin(self, tx: Transaction, policy: Policy, offset: int) -> Entries:
        """Start on the record at `offset`."""
        self._tx = tx
        self._offset = offset
        self._touched: dict[bytes, _Working] = {}
        self._forced = _due(tx, offset)
        self.use(policy)
        return self

    def use(self, policy: Policy) -> None:
        """Decide by this policy from here on."""
        if policy is self._policy:
            return
        self._policy = policy
        rules = [rule for rule in policy.rule if rule.subject == "address"]
        self.counted = frozenset(kind.value for rule in rules for kind in rule.kinds)
        resettable = (rule for rule in rules if rule.reset_by_delivery)
        self._reset_scopes = {rule.scope for rule in resettable}

    def recipient_fact(self, row: dict[str, Any], address: str, incident: Incident) -> None:
        """Take one event about an address that may be among the `counted`: a failure, a complaint."""
        tenant, stream, key = row.get("tenant", ""), row.get("stream", ""), row["recipient_key"]
        for rule in matching(self._in_force, incident, "address"):
            scope_id = _scope_id(rule.scope, tenant, stream)
            working = self._work(rule.scope, scope_id, "address", key, row.get("recipient_domain", ""))
            if address:
                working.address = address
            self._count(working, rule.id, incident)

    def domain_fact(self, domain: str, incident: Incident) -> None:
        """Take one failure that concerns a whole domain."""
        for rule in matching(self._in_force, incident, "domain"):
            # a domain is the same for every tenant, whatever the rule says
            self._count(self._work(Scope.GLOBAL, "", "domain", domain, domain), rule.id, incident)

    def command(self, command: dict[str, Any]) -> None:
        """Apply a manual add or release; `subject_key`, `domain` and `address` are resolved by classify."""
        scope = Scope(command["scope"])
        scope_id = _scope_id(scope, command.get("tenant", ""), command.get("stream", ""))
        working = self._work(scope, scope_id, command["subject"], command["subject_key"], command["domain"])
        working.address = command.get("address", "") or working.address
        working.actor, working.note = command.get("actor", ""), command.get("note", "")
        at = int(command["received"])
        if command["type"] == "add":
            working.facts.manual = {
                "at": at,
                "reason": command.get("reason", "manual"),
                "expires": command.get("expires", 0),
                "id": command["id"],
            }
        else:
            working.facts.manual = None
            working.facts.released = max(working.facts.released, at)

    def finish(self, clock: int) -> list[Change]:
        """Decide what was touched; one change for each entry that is not as it was, or is no more."""
        changes = []
        for key, working in sorted(self._touched.items()):
            change = self._decided(key, working)
            if change and change.value is not None:
                changes.append(change)
                self._tx.put(ENTRIES, key, change.value)
                self._schedule(key, working.entry, change.entry)
                self._forced.discard(key)
        for key in sorted(self._forced):
            # a change of this very record, sent before the store was lost: sent again as it was
            value = self._tx.get(ENTRIES, key)
            if value is not None:
                changes.append(Change(key, value, orjson.loads(value)))
        return changes + self._forgotten(clock)

    def schedule(self, tx: Transaction, key: bytes, entry: dict[str, Any]) -> None:
        """Note when an entry that was read from the topic may be removed."""
        self._tx = tx
        self._schedule(key, {}, entry)

    def _schedule(self, key: bytes, old: dict[str, Any], new: dict[str, Any]) -> None:
        was, due = self._forget_at(old), self._forget_at(new)
        if was and was != due:
            self._tx.delete(_DUE, was.to_bytes(8, "big") + key)
        if due:
            self._tx.put(_DUE, due.to_bytes(8, "big") + key, b"")

    def _forget_at(self, entry: dict[str, Any]) -> int:
        """The clock from which the entry may be removed; 0 for one that denies for ever, or for none."""
        if not entry or (entry["state"] == State.ACTIVE and not entry["expires"]):
            return 0
        facts = Facts.from_json(entry.get("facts", {}))
        times = [row[0] for rows in facts.rows.values() for row in rows]
        return int(max(entry["expires"], entry["created"], facts.released, *times)) + self._forget_ms

    def _forgotten(self, clock: int) -> list[Change]:
        if not self._tx.exists(_DUE):
            return []
        due: list[bytes] = []
        for name, _ in self._tx.items(_DUE):
            if int.from_bytes(name[:8], "big") > clock or len(due) == FORGET_AT_ONCE:
                break
            due.append(name)
        changes = []
        for name in due:
            self._tx.delete(_DUE, name)
            key = name[8:]
            value = self._tx.get(ENTRIES, key)
            if value is not None and key not in self._touched:
                self._tx.delete(ENTRIES, key)
                changes.append(Change(key, None, {**orjson.loads(value), "state": "removed", "version": self._offset}))
        return changes

    def advance(self, tx: Transaction, clock: int) -> None:
        """Forget deliveries older than a window, in two generations."""
        self._deliveries.advance(tx, clock)

    def delivery(self, tenant: str, stream: str, key: str, at: int) -> None:
        """Take a verified delivery, which answers what came before it."""
        tx, name = self._tx, _delivered_name(tenant, key)
        place = self._deliveries.names(tx)[0]
        value = at.to_bytes(8, "big")
        if not tx.add(place, name, value) and (tx.get(place, name) or b"") < value:
            tx.put(place, name, value)
        for scope in self._reset_scopes:
            scope_id = _scope_id(scope, tenant, stream)
            full = entry_key(scope, scope_id, "address", key)
            if full in self._touched or tx.get(ENTRIES, full) is not None:
                self._work(scope, scope_id, "address", key, "")

    @property
    def _in_force(self) -> Policy:
        assert self._policy is not None, "begin first"
        return self._policy

    def _delivered(self, working: _Working) -> int:
        if working.head["subject"] != "address" or working.head["scope"] == Scope.GLOBAL:
            return 0
        name = _delivered_name(working.head["scope_id"].partition("/")[0], working.head["subject_key"])
        found = [self._tx.get(place, name) for place in self._deliveries.names(self._tx)]
        return max((int.from_bytes(value, "big") for value in found if value), default=0)

    def _work(self, scope: str, scope_id: str, subject: str, subject_key: str, domain: str) -> _Working:
        key = entry_key(scope, scope_id, subject, subject_key)
        working = self._touched.get(key)
        if working is None:
            stored = self._tx.get(ENTRIES, key)
            entry = orjson.loads(stored) if stored else {}
            head = {
                "scope": str(scope),
                "scope_id": scope_id,
                "subject": subject,
                "subject_key": subject_key,
                "domain": entry.get("domain") or domain,
            }
            working = self._touched[key] = _Working(
                entry,
                Facts.from_json(entry.get("facts", {})),
                head,
                entry.get("address", ""),
                entry.get("actor", ""),
                entry.get("note", ""),
            )
        return working

    def _count(self, working: _Working, rule_id: str, incident: Incident) -> None:
        rows = working.facts.rows
        fact = (incident.at, incident.message, incident.event_id, incident.cause, incident.trust)
        rows[rule_id] = merge(rows.get(rule_id, []), fact)

    def _decided(self, key: bytes, working: _Working) -> Change | None:
        facts, policy = working.facts, self._in_force
        # From the rows that are kept, so that one which a newer report of its message replaced leaves no trace.
        facts.reset = newest_answered(facts, policy, max(facts.reset, self._delivered(working)))
        d = decide(policy, facts)
        entry = {
            **working.head,
            "address": working.address if self._keep_addresses else "",
            "state": d.state.value,
            "reason": d.reason,
            "cause": d.cause,
            "created": d.created,
            "expires": d.expires,
            "source": d.source,
            "actor": working.actor,
            "note": working.note,
            "evidence": {"event_ids": list(d.event_ids), "count": d.count, "first": d.first, "last": d.last},
            "policy": policy.version,
            "facts": facts.to_json(),
        }
        value = orjson.dumps(entry)
        old = dict(working.entry)
        old.pop("version", None)
        if orjson.dumps(old) == value:
            return None
        entry["version"] = self._offset
        return Change(key, orjson.dumps(entry), entry)


def load(tx: Transaction, entries: Entries, key: bytes, value: bytes, last_emission: int) -> None:
    """Put an entry read from the topic into a new store.

    One that is newer than the last emission was sent for a record whose output was not: it is kept
    aside too, to be sent again when that record comes.
    """
    tx.put(ENTRIES, key, value)
    entry = orjson.loads(value)
    entries.schedule(tx, key, entry)
    version = int(entry["version"])
    if version > last_emission:
        tx.put(PENDING, version.to_bytes(8, "big") + key, b"")


def stored(tx: Transaction) -> Iterable[tuple[bytes, bytes]]:
    """All entries, as they stand on the topic."""
    return tx.items(ENTRIES)


def version_of(value: bytes) -> int:
    """The version of an entry as it stands on the topic: its last field, read without the rest."""
    return int(value.rpartition(b'"version":')[2].rstrip(b"}"))


def _due(tx: Transaction, offset: int) -> set[bytes]:
    if not tx.exists(PENDING):
        return set()
    passed = [key for key, _ in tx.items(PENDING) if int.from_bytes(key[:8], "big") <= offset]
    for key in passed:
        tx.delete(PENDING, key)
    return {key[8:] for key in passed if int.from_bytes(key[:8], "big") == offset}


def _scope_id(scope: str, tenant: str, stream: str) -> str:
    if scope == Scope.GLOBAL:
        return ""
    return tenant if scope == Scope.TENANT else f"{tenant}/{stream}"


def _delivered_name(tenant: str, key: str) -> bytes:
    return bytes.fromhex(key.replace("-", "")) + tenant.encode("utf-8", "surrogatepass")[:400]
