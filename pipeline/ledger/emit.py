"""An output of the fold as records: of `feedback.events`, and of `feedback.suppressions`."""

from __future__ import annotations

from typing import Any

import orjson

from mailecho.pipeline.ledger.entries import Change
from mailecho.pipeline.ledger.fold import Output
from mailecho.pipeline.times import row_time
from mailecho.schemas import headers as h
from mailecho.schemas.suppression import policy_key

#: ClickHouse's DateTime64 ends in 2299; a manual expiry may be any number.
_LAST_MS = 7_258_118_400_000  # 2200-01-01

#: What `suppression_changes` has of an entry as it is. The address is not among it.
_COLUMNS = (
    *("scope", "scope_id", "subject", "subject_key", "domain"),
    *("state", "reason", "cause", "source", "actor", "policy", "version"),
)


def event_record(output: Output, partition: int, answered: int) -> tuple[bytes, h.Headers]:
    """(value, headers) of the one `events` record that answers an input record.

    `answered` is that record's append time. The value is the rows, then the suppression changes.
    """
    rows = b"\n".join(output.rows)
    changes = b"\n".join(orjson.dumps(_row(c.entry, partition, output.clock)) for c in output.changes)
    value = b"\n".join(part for part in (rows, changes) if part)
    at = len(value) - len(changes)
    return value, [
        h.schema_header("event"),
        (h.EMISSION, str(output.n).encode()),
        (h.ANSWERED, str(answered).encode()),
        (h.ROWS, str(len(output.rows)).encode()),
        (h.CHANGES_AT, str(at).encode()),
        (h.TOTALS, output.totals),
    ]


def suppression_records(output: Output, partition: int) -> list[tuple[bytes, bytes | None, h.Headers]]:
    """(key, value, headers) of the suppression list's records that an output leads to; no value removes."""
    records: list[tuple[bytes, bytes | None, h.Headers]] = [
        (change.key, change.value, _headers(output.n)) for change in output.changes
    ]
    if output.policy is not None:
        records.append((policy_key(partition), output.policy, _headers(output.n)))
    return records


def suppression_record(change: Change) -> tuple[bytes, bytes | None, h.Headers]:
    """The record of an entry as it stands, to be sent again."""
    return change.key, change.value, _headers(int(change.entry["version"]))


def _headers(version: int) -> h.Headers:
    return [h.schema_header("suppression"), (h.VERSION, str(version).encode())]


def _row(entry: dict[str, Any], partition: int, clock: int) -> dict[str, Any]:
    evidence = entry["evidence"]
    return {
        "time": row_time(clock),
        **{name: entry[name] for name in _COLUMNS},
        "created": row_time(min(entry["created"], _LAST_MS)),
        "expires": row_time(min(entry["expires"], _LAST_MS)),
        "partition": partition,
        "evidence_count": evidence["count"],
        "evidence_ids": evidence["event_ids"],
    }
