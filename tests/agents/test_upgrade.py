"""Workers of one release read what those of another wrote: older and newer minor versions, and no newer major one."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from mailecho.agents.exits import REFUSED
from mailecho.pipeline.side import committed_offsets
from mailecho.schemas.classified import event_line
from mailecho.schemas.event import COLUMNS, Event
from mailecho.schemas.topics import CLASSIFIED, GROUP_LEDGER, partition_of
from tests.agents.harness import Cluster, wait_until
from tests.agents.test_ledger_worker import RECEIVED
from tests.ledger.histories import Fact, key_of

REQUIRED = [name for name in COLUMNS if Event.model_fields[name].is_required()]


def line(number: int, *, later: bool = False, only_required: bool = False) -> bytes:
    """A bounce; with what a later release may add, or with nothing that an earlier one need have had."""
    written = orjson.loads(
        Fact("bounce", "mailbox_unknown", "user@example.org", number, number).line(RECEIVED + number)
    )
    row = written["row"]
    if only_required:
        needed = {*REQUIRED, "recipient_key", "cause", "permanence", "raw_topic"}
        row = {name: value for name, value in row.items() if name in needed}
    if later:
        row["of_next_year"] = "x"
    data = event_line(orjson.dumps(row), "user@example.org")
    return data[:-1] + b',"of_next_year":{"a":1}}' if later else data


@pytest.mark.kafka
def test_minor_versions_are_read_and_a_newer_major_one_is_refused(cluster: Cluster) -> None:
    partition = partition_of(key_of("user@example.org"), 2)
    for number, version, options in (
        (1, b"classified/1.0", {"only_required": True}),
        (2, b"classified/1.0", {}),
        (3, b"classified/1.9", {"later": True}),
    ):
        cluster.produce(CLASSIFIED, [line(number, **options)], partition, [("schema", version)])
    worker = cluster.worker("ledger")
    wait_until(lambda: len(cluster.rows()) == 3, "all three are emitted")
    rows = cluster.rows()
    assert [row.get("of_next_year") for row in rows] == [None, None, "x"], "what is not known goes on as it is"
    assert set(rows[0]) < set(rows[1])
    (entry,) = (e for e in cluster.entries().values() if e["subject_key"] == key_of("user@example.org"))
    assert (entry["state"], entry["reason"]) == ("active", "hard_bounce")

    cluster.produce(CLASSIFIED, [line(4)], partition, [("schema", b"classified/2.0")])
    wait_until(lambda: not worker.running, "it stops")
    assert worker.process.returncode == REFUSED
    assert "'classified/2.0' is newer than classified/1.x" in worker.said()
    committed = asyncio.run(committed_offsets(cluster.bootstrap, GROUP_LEDGER))
    assert committed.get((CLASSIFIED, partition), 0) <= 3, "the release that can read it goes on there"
