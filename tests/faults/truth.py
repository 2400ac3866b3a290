"""What the generator knows, held against the tables and against the list."""

from __future__ import annotations

from collections import Counter
from typing import Any

from clickhouse_connect.driver.client import Client

from mailecho.pipeline.identity import Identity
from tests.faults.generator import Feed

KINDS = ("delivery", "bounce", "delay", "complaint")


def assert_events(client: Client, identity: Identity, feed: Feed) -> None:
    """Each event that was sent stands in `events` once, no other does, and the rollup counts them."""
    rows = client.query("SELECT kind, cause, recipient_key, toString(occurred_at), count() FROM events GROUP BY ALL")
    found = Counter({(kind, cause, str(key), at): count for kind, cause, key, at, count in rows.result_rows})
    wanted = Counter(
        {(kind, cause, identity.recipient_key(address), at): n for (kind, cause, address, at), n in feed.events.items()}
    )
    assert found - wanted == Counter(), "events that nobody sent, or that came twice"
    assert wanted - found == Counter(), "events that were lost"
    by_kind: Counter[str] = Counter()
    for (kind, *_), n in feed.events.items():
        by_kind[kind] += n
    sums = ", ".join(f"sum({kind})" for kind in KINDS)
    (counters,) = client.query(f"SELECT {sums} FROM rollup_minute_provider").result_rows
    assert counters == tuple(by_kind[kind] for kind in KINDS)


def assert_list(entries: dict[str, dict[str, Any]], identity: Identity, feed: Feed) -> None:
    """The entries, as the topic leaves them, deny whom the generator says, for its reason, and nobody else."""
    states = {(entry["subject"], entry["subject_key"]): entry for entry in entries.values()}

    def denies(address: str) -> str:
        domain = address.rpartition("@")[2]
        for subject in (("address", identity.recipient_key(address)), ("domain", domain)):
            entry = states.get(subject)
            if entry is not None and entry["state"] == "active":
                assert entry["evidence"]["event_ids"], "it says which events"
                return str(entry["reason"])
        return ""

    wanted = feed.denied | dict.fromkeys(feed.allowed, "")
    assert {address: denies(address) for address in wanted} == wanted
