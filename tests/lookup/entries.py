"""Entries of the suppression list, and the records that hold them."""

from __future__ import annotations

from typing import Any

import orjson

from mailecho.pipeline.identity import Identity
from mailecho.pipeline.lookup.record import Change
from mailecho.schemas import headers as h
from mailecho.schemas.suppression import State, entry_key

IDENTITY = Identity(b"a key for tests, 32 bytes long..")
NOW = 1_790_000_000_000
DAY = 86_400_000


def entry(address: str = "user@example.com", **fields: Any) -> dict[str, Any]:
    """An entry as the ledger writes it; `domain` without address makes a domain entry."""
    values: dict[str, Any] = {
        "scope": "tenant",
        "scope_id": "",
        "subject": "address",
        "subject_key": IDENTITY.recipient_key(address) if address else fields["domain"],
        "address": address,
        "domain": address.rpartition("@")[2],
        "state": "active",
        "reason": "hard_bounce",
        "cause": "mailbox_unknown",
        "created": NOW - DAY,
        "expires": 0,
        "evidence": {"event_ids": ["018f0000-0000-7000-8000-000000000001"], "count": 1, "first": NOW, "last": NOW},
        "version": 1,
        "facts": {"soft": []},
    }
    if not address:
        values["subject"] = "domain"
    return values | fields


def key_of(values: dict[str, Any]) -> bytes:
    return entry_key(values["scope"], values["scope_id"], values["subject"], values["subject_key"])


def change(values: dict[str, Any]) -> Change:
    """An entry as the store takes it."""
    body = {k: v for k, v in values.items() if k != "facts"}
    return Change(key_of(values), values["version"], State(values["state"]), orjson.dumps(body))


def removal(values: dict[str, Any], version: int) -> Change:
    return Change(key_of(values), version, None, b"")


def record(values: dict[str, Any]) -> dict[str, Any]:
    """An entry as a record: arguments of a producer's send."""
    return {"key": key_of(values), "value": orjson.dumps(values), "headers": [h.schema_header("suppression")]}


def tombstone(values: dict[str, Any], version: int) -> dict[str, Any]:
    return {
        "key": key_of(values),
        "value": None,
        "headers": [h.schema_header("suppression"), (h.VERSION, str(version).encode())],
    }
