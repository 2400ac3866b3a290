"""Partitions added to a system that holds data: killed at every step, and everything still counts once."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from mailecho.agents.exits import REFUSED
from mailecho.pipeline.config import KafkaSettings, Settings
from mailecho.pipeline.growth import GrowthRefused, grow
from mailecho.pipeline.identity import load_identity
from mailecho.pipeline.landing.migrations import migrate
from mailecho.pipeline.ledger.places import Places
from mailecho.pipeline.side import committed_offsets
from mailecho.pipeline.status import kafka_counts
from mailecho.pipeline.verify.run import verify
from mailecho.schemas import headers as h
from mailecho.schemas.suppression import is_entry_key
from mailecho.schemas.topics import CLASSIFIED, COMMANDS, EVENTS, GROUP_LEDGER, RAW_ARF, RAW_DELIVERY, SUPPRESSIONS
from tests.agents.harness import Cluster, wait_until
from tests.agents.test_classify_worker import SOURCE, delivery
from tests.fixtures_clickhouse import EmbeddedClickHouse
from tests.fixtures_kafka import KafkaProcess

OLD, NEW = 2, 6


def bounce(number: int) -> bytes:
    return delivery(number, kind="bounce", smtp_code=550, status="5.1.1", diagnostic="550 5.1.1 user unknown")


def no_domain(number: int) -> bytes:
    return delivery(
        number,
        kind="bounce",
        recipient=f"x@gone{number % 8}.example",
        smtp_code=550,
        status="5.1.2",
        diagnostic="550 5.1.2 domain not found: NXDOMAIN",
    )


def command(number: int, **more: Any) -> bytes:
    return orjson.dumps({"type": "add", "id": f"command-{number}", "actor": "eve", **more})


FACTS = [
    *(delivery(n) for n in range(100)),
    *(bounce(n) for n in range(100, 160)),
    *(no_domain(n) for n in range(160, 200)),
]

#: Without a recipient: placed by their own ids.
MAILS = [b"From: a@example.org\r\nTo: b@example.com\r\nSubject: lunch %d\r\n\r\nAt noon?\r\n" % n for n in range(20)]
COUNT = len(FACTS) + len(MAILS)


def newest(cluster: Cluster, *, backwards: bool = False) -> dict[bytes, bytes | None]:
    """The suppression list as a follower has it, in whatever order it reads partitions: the highest version counts."""
    found: dict[bytes, tuple[int, bytes | None]] = {}
    order = range(cluster.partitions)
    for partition in reversed(order) if backwards else order:
        for record in cluster.records(SUPPRESSIONS, partition):
            version = int(h.get(record.headers, h.VERSION) or -1)
            if is_entry_key(record.key) and version >= found.get(record.key, (-1, None))[0]:
                found[record.key] = (version, record.value)
    return {key: value for key, (_, value) in found.items()}


def content(entries: dict[bytes, bytes | None]) -> dict[bytes, dict[str, Any]]:
    plain = {key: orjson.loads(value) for key, value in entries.items() if value is not None}
    for entry in plain.values():
        del entry["version"]
    return plain


def settled(cluster: Cluster) -> bool:
    return not any(asyncio.run(kafka_counts(cluster.settings()))["lag"].values())


def stop(cluster: Cluster) -> None:
    for worker in cluster.workers:
        worker.process.terminate()
    for worker in cluster.workers:
        worker.process.wait(30)
    cluster.workers.clear()


def grows(cluster: Cluster, faults: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mailecho.pipeline.cli", "topics", "grow", "--partitions", str(NEW)]
    environment = cluster.environment(**({"MAILECHO_FAULTS": faults} if faults else {}))
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def members_gone(cluster: Cluster) -> bool:
    return "has members" not in grows(cluster, "grow.after_lines").stderr


def test_only_a_multiple_moves_each_key_from_one_partition_to_a_new_one() -> None:
    with pytest.raises(GrowthRefused, match="multiple of the 4"):
        asyncio.run(grow(Settings(kafka=KafkaSettings(bootstrap_servers="127.0.0.1:1", partitions=4)), 6))


@pytest.mark.kafka
@pytest.mark.clickhouse
def test_growth_is_exact_through_a_kill_at_every_step(
    kafka_process: KafkaProcess, fresh_clickhouse: EmbeddedClickHouse, tmp_path: Path
) -> None:
    client = fresh_clickhouse.write_client()
    migrate(client)
    cluster = Cluster(kafka_process.bootstrap, tmp_path / "data", partitions=OLD)
    cluster.prepare()
    access = {
        "MAILECHO_CLICKHOUSE__URL": fresh_clickhouse.url,
        "MAILECHO_CLICKHOUSE__PASSWORD": fresh_clickhouse.token,
        "MAILECHO_LANDER__FLUSH_SECONDS": "0.2",
    }

    def start() -> None:
        for role in ("classify", "ledger", "lander"):
            cluster.worker(role, **access)

    try:
        start()
        cluster.produce(RAW_DELIVERY, FACTS, 0, SOURCE)
        cluster.produce(RAW_ARF, MAILS)
        cluster.produce(COMMANDS, [command(n, address=f"Added{n}@example.org") for n in range(12)])
        cluster.produce(COMMANDS, [command(20 + n, domain=f"held{n}.example") for n in range(6)])
        wait_until(lambda: settled(cluster) and len(newest(cluster)) >= 78, "all is folded and landed")
        before = content(newest(cluster))
        counted = client.query("SELECT count(), uniqExact(event_id) FROM events").result_rows
        assert "has members" in grows(cluster).stderr
        stop(cluster)
        # raw topics may fill meanwhile; half of it has been counted
        later = [bounce(n) for n in range(300, 320)]
        cluster.produce(RAW_DELIVERY, [*FACTS[60:], *later], 1, SOURCE)
        cluster.produce(RAW_ARF, MAILS, 1)
        wait_until(lambda: members_gone(cluster), "Kafka has forgotten the workers")

        for fault in ("grow.after_lines:2", "grow.after_entries", "grow.before_events", "grow.after_events"):
            grows(cluster, fault)
        cluster.partitions = NEW
        for role in ("ledger", "classify"):
            worker = cluster.worker(role, **access)
            if role == "ledger":
                wait_until(lambda w=worker: not w.running, "it refuses what is half grown")  # type: ignore[misc]
                assert worker.process.returncode == REFUSED
            else:
                worker.kill()
        cluster.workers.clear()
        cluster.partitions = OLD
        wait_until(lambda: "has members" not in grows(cluster).stderr, "Kafka has forgotten them again")
        done = grows(cluster)
        assert done.returncode == 0, done.stderr
        assert "MAILECHO_KAFKA__PARTITIONS=6" in done.stdout

        cluster.partitions = NEW
        after = newest(cluster)
        assert content(after) == before, "no entry is lost, changed, or removed by a tombstone"
        assert newest(cluster, backwards=True) == after
        places = Places(load_identity(cluster.settings()), NEW)
        moved = {places.of_entry(key) for key in after}
        assert moved == set(range(NEW))

        start()
        wait_until(lambda: settled(cluster), "what came meanwhile is folded and landed")
        ((rows, ids),) = client.query("SELECT count(), uniqExact(event_id) FROM events").result_rows
        assert counted == [(COUNT, COUNT)]
        assert (rows, ids) == (COUNT + len(later), COUNT + len(later)), "what came twice is counted once"
        cluster.produce(COMMANDS, [command(40, address="added3@example.org").replace(b'"add"', b'"release"')])
        wait_until(
            lambda: any(
                e["address"] == "added3@example.org" and e["state"] == "released"
                for e in content(newest(cluster)).values()
            ),
            "an entry that moved is released",
        )
        wait_until(lambda: settled(cluster), "and that has landed")
        settings = cluster.settings().model_copy(
            update={"clickhouse": fresh_clickhouse.settings().clickhouse, "data_dir": cluster.data_dir}
        )
        os.makedirs(cluster.data_dir / "clickhouse", exist_ok=True)
        (cluster.data_dir / "clickhouse" / "clickhouse.token").write_text(fresh_clickhouse.token)
        assert asyncio.run(verify(settings, from_raw=True)).differences == []
        assert set(cluster.ends(EVENTS)) != {0}
        done_at = asyncio.run(committed_offsets(cluster.bootstrap, GROUP_LEDGER))
        assert all(done_at[CLASSIFIED, p] == end for p, end in enumerate(cluster.ends(CLASSIFIED)))
    finally:
        for worker in cluster.workers:
            worker.kill()
