"""A worker with another rule set skips what an older one has classified and could not commit."""

from __future__ import annotations

import orjson
import pytest

from mailecho.schemas.classified import event_line
from mailecho.schemas.topics import CLASSIFIED, RAW_DELIVERY
from tests.agents.harness import Cluster, wait_until
from tests.schemas.rows import dump_row

pytestmark = pytest.mark.kafka


def entry(number: int) -> bytes:
    return orjson.dumps({"kind": "delivery", "recipient": f"u{number}@example.org", "occurred_at": 1_795_000_000})


def older(offset: int, index: int) -> bytes:
    row = {
        "event_id": f"00000000-0000-0000-0000-0000000000{offset:02d}",
        "kind": "delivery",
        "received_at": "2026-11-20 10:00:00.000",
        "occurred_at": "2026-11-20 10:00:00.000",
        "raw_topic": RAW_DELIVERY,
        "raw_partition": 0,
        "raw_offset": offset,
        "raw_index": index,
    }
    return event_line(dump_row(row), "")


def test_origins_above_the_commit_are_not_classified_twice(cluster: Cluster) -> None:
    cluster.produce(RAW_DELIVERY, [entry(0), b"\n".join([entry(1), entry(2)]), entry(3)], 0, [("source", b"mailecho")])
    old = [("schema", b"classified/1.0"), ("rules-version", b"an older one")]
    # it had classified the first record, and one of the second's two events
    cluster.produce(CLASSIFIED, [older(0, 0)], 0, old)
    cluster.produce(CLASSIFIED, [older(1, 1)], 1, old)
    worker = cluster.worker("classify")

    def origins() -> list[tuple[int, int]]:
        found = []
        for partition in range(2):
            for record in cluster.records(CLASSIFIED, partition):
                rows = [orjson.loads(line)["row"] for line in (record.value or b"").split(b"\n")]
                found += [(row["raw_offset"], row.get("raw_index", 0)) for row in rows]
        return sorted(found)

    wait_until(lambda: (2, 0) in origins(), "all is classified")
    assert worker.stop() == 0, worker.said()
    assert origins() == [(0, 0), (1, 0), (1, 1), (2, 0)]
