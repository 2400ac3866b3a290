"""The matrix's rows of the classify and ledger workers: each a fault in the middle of a feed.

A row takes the rig with its workers running, the records to send, and chance; it sends all records.
Its name is what the table in docs/DESIGN.md calls it.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import time
from datetime import UTC, datetime, timedelta

import orjson

from mailecho.pipeline.ledger.store import Store
from mailecho.pipeline.supervise.machine import rewind
from mailecho.pipeline.times import AHEAD_MS
from mailecho.schemas.deadletter import Reason
from mailecho.schemas.topics import (
    CLASSIFIED,
    CLASSIFY_INPUT,
    COMMANDS,
    EVENTS,
    GROUP_CLASSIFY,
    GROUP_LEDGER,
    RAW_DELIVERY,
    RAW_DSN,
    RAW_RECORD_BYTES,
)
from tests.agents.harness import wait_until
from tests.faults.generator import Raw, dsn
from tests.faults.rig import Rig, fill_disk, halves

Records = list[Raw]
Chance = random.Random


def crash_of_classify(rig: Rig, records: Records, chance: Chance) -> None:
    """classify dies before, and after, its outputs are acknowledged."""
    parts = halves(records)
    for name, part in zip(("classify.before_send", "classify.after_send"), parts, strict=True):
        worker = rig.start("classify", faults=f"{name}:{chance.randint(1, 3)}")
        # what lies there already is one step, so the rest comes over some seconds; it may die of the first
        wait_until(lambda worker=worker: "Worker ready" in worker.said() or not worker.running, "it is ready, or dead")
        rig.feeding(part, 3.0).finish()
        rig.ended(worker, -9)


def crash_of_ledger(rig: Rig, records: Records, chance: Chance) -> None:
    """The ledger dies before, between and after its sends, and before and after its store's commit."""
    points = ["before_send", "after_suppressions", "after_send", "before_commit", "after_commit"]
    chance.shuffle(points)
    size = len(records) // len(points) + 1
    for number, name in enumerate(points):
        rig.kill("ledger")
        rig.feed(records[number * size : (number + 1) * size])
        rig.run_all("classify")
        rig.dies("ledger", f"ledger.{name}")


def poison(rig: Rig, records: Records, chance: Chance) -> None:
    """A record on which three workers die is a dead letter; redriven, nothing of it is missing."""
    last = [raw for raw in records if raw.source == "mailecho"][-40:]
    rig.feed([raw for raw in records if raw not in last])
    rig.run_all()
    rig.verify()
    rig.kill("classify")
    before = rig.letters(RAW_DELIVERY)[Reason.POISON]
    rig.produce(RAW_DELIVERY, [raw.value for raw in last], 0, [("source", b"mailecho")])
    at = chance.randint(1, 40)
    for _ in range(3):
        rig.dies("classify", f"classify.record:{at}")
    rig.run_all()
    rig.verify()
    assert rig.letters(RAW_DELIVERY)[Reason.POISON] == before + 1
    ran = rig.command("dlq", "redrive", RAW_DELIVERY, "--reason", "poison")
    assert ran.returncode == 0, ran.stderr


def two_owners(rig: Rig, records: Records, chance: Chance) -> None:
    """Partitions move to a second worker of each role and back, one leaving as asked and one killed."""
    feeder = rig.feeding(records, 6.0)
    roles = ["classify", "ledger"]
    chance.shuffle(roles)
    for role in roles:
        rig.start(role, "1")
    for role in roles:
        rig.ready(role, "1")
    time.sleep(chance.uniform(0.0, 1.0))
    rig.running[roles[0], "1"].process.terminate()
    rig.kill(roles[1], "1")
    feeder.finish()


def zombie(rig: Rig, records: Records, chance: Chance) -> None:
    """A worker of each role is stopped, its successor takes over when the session has expired, then it wakes."""
    first, second = halves(records)
    rig.feed(first[: len(first) // 2])
    asleep = [rig.ready("classify"), rig.ready("ledger")]
    rig.feed(first[len(first) // 2 :])
    time.sleep(chance.uniform(0.0, 0.3))
    for worker in asleep:
        worker.pause()
    rig.feed(second)
    for role in ("classify", "ledger"):
        rig.start(role, "b")
        rig.ready(role, "b")
    wait_until(rig.folded_to_the_end, "the successors take over")
    for worker in asleep:
        worker.wake()
    time.sleep(1.0)
    assert rig.running["ledger", "b"].running


def offsets_of_classify_deleted(rig: Rig, records: Records, chance: Chance) -> None:
    """classify's group is deleted: everything that is retained is read again."""
    first, second = halves(records)
    rig.feed(first)
    rig.kill("classify")
    rig.delete_group(GROUP_CLASSIFY)
    rig.feed(second)


def offsets_of_classify_reset(rig: Rig, records: Records, chance: Chance) -> None:
    """classify's offsets are set forward: `verify` names what was passed over; set back, all is there."""
    second = rig.half_way(records)
    rig.kill("classify")
    before = rig.committed(GROUP_CLASSIFY)
    rig.feed(second)
    ends = {(topic, p): end for topic in CLASSIFY_INPUT if topic != COMMANDS for p, end in enumerate(rig.ends(topic))}
    rig.set_offsets(GROUP_CLASSIFY, ends)
    rig.run_all()
    skipped = sum(end - before.get(place, 0) for place, end in ends.items())
    found = rig.verify().differences
    assert found
    assert skipped > 0
    assert all("neither" in difference for difference in found), found
    rig.kill("classify")
    back = {place: chance.randint(0, before.get(place, 0)) for place in ends}
    rig.set_offsets(GROUP_CLASSIFY, back)


def replay_from_an_hour_ago(rig: Rig, records: Records, chance: Chance) -> None:
    """After a power cut classify reads the last hour again, while new records come."""
    second = rig.half_way(records)
    rig.kill("classify")
    assert asyncio.run(rewind(rig.bootstrap)) > 0
    rig.feed(second)


def clock_ahead(rig: Rig, records: Records, chance: Chance) -> None:
    """Append times an hour ahead: classify halts, and goes on when its clock has come near."""
    first, second = halves(records)
    rig.feed(first)
    rig.alter(RAW_DELIVERY, message_timestamp_type="CreateTime", message_timestamp_after_max_ms=str(1 << 62))
    try:
        ahead = int(time.time() * 1000) + 3_600_000 + 6_000
        log = [raw for raw in second if raw.topic == RAW_DELIVERY]
        rig.produce_at(RAW_DELIVERY, log, ahead)
        worker = rig.running["classify", "0"]
        rig.ended(worker, 78)
        assert "ahead of this machine's clock" in worker.said()
        rig.feed([raw for raw in second if raw.topic != RAW_DELIVERY])
        wait_until(lambda: time.time() * 1000 > ahead - 3_600_000, "the clock has come near")
    finally:
        rig.alter(RAW_DELIVERY)


def clock_back(rig: Rig, records: Records, chance: Chance) -> None:
    """Append times that fall back by hours: the fold's clock stands still, and nothing is late."""
    rig.alter(RAW_DELIVERY, message_timestamp_type="CreateTime")
    try:
        log = [raw for raw in records if raw.topic == RAW_DELIVERY]
        first, second = halves(log)
        rig.produce_at(RAW_DELIVERY, first, int(time.time() * 1000))
        rig.feed([raw for raw in records if raw.topic != RAW_DELIVERY])
        # no further than what an event may seem to be ahead of its report: else its time is not believed
        back = int(chance.uniform(1, AHEAD_MS / 3_600_000 - 1) * 3_600_000)
        rig.produce_at(RAW_DELIVERY, second, int(time.time() * 1000) - back)
    finally:
        rig.alter(RAW_DELIVERY)


def failed_send_of_classify(rig: Rig, records: Records, chance: Chance) -> None:
    """Some of classify's outputs are refused and others taken: it dies, and sends all of them again."""
    rig.kill("classify")
    rig.feed(records)
    rig.alter(CLASSIFIED, max_message_bytes=str(chance.randint(2_000, 20_000)))
    try:
        worker = rig.start("classify")
        rig.ended(worker, 70)
        assert "did not take our output" in worker.said()
    finally:
        rig.alter(CLASSIFIED)


def failed_send_of_ledger(rig: Rig, records: Records, chance: Chance) -> None:
    """The suppressions are taken and the events refused: the ledger dies with nothing committed, and sends again."""
    second = rig.half_way(records)
    ends = rig.ends(EVENTS)
    rig.kill("ledger")
    rig.feed(second)
    rig.alter(EVENTS, max_message_bytes=str(chance.randint(300, 1_000)))
    try:
        worker = rig.start("ledger")
        rig.ended(worker, 70)
        assert "did not take our output" in worker.said()
        again = rig.start("ledger")
        rig.ended(again, 70)
        assert rig.ends(EVENTS) >= ends
    finally:
        rig.alter(EVENTS)


def oversized(rig: Rig, records: Records, chance: Chance) -> None:
    """The largest records that a raw topic takes: no JSON, a field too long, thousands of lines, a huge mail."""
    rig.feed(records)
    rig.verify()
    room = RAW_RECORD_BYTES + 60 * 1024
    before = sum(rig.letters(RAW_DELIVERY).values())
    at = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    many = f"many{rig.feeds}@example.net"
    entry = {"kind": "delivery", "recipient": many, "occurred_at": at.timestamp(), "smtp_code": 250}
    lines = b""
    count = 0
    while len(lines) < RAW_RECORD_BYTES - 1_000:
        lines += orjson.dumps(entry | {"message_id": f"{count}-{rig.feeds}@mail.example.com"}) + b"\n"
        count += 1
    large = f"large{rig.feeds}@example.org"
    mail = dsn(large, "550 5.1.1 User unknown", "5.1.1", f"large{rig.feeds}@mail.example.com", at)
    end = mail.index(b"\r\n--4Xq/mx1.example.com--")
    mail = mail[:end] + b"\r\nX-Padding: " + b"x" * (room - len(mail) - 20) + mail[end:]
    too_long = orjson.dumps(entry | {"diagnostic": "x" * (room - 200)})
    for value in (b'{"kind": "' + b"x" * (room - 10), too_long, lines):
        rig.feed([Raw(RAW_DELIVERY, value, "mailecho")])
    rig.feed([Raw(RAW_DSN, mail)])
    rig.run_all()
    rig.verify()
    assert sum(rig.letters(RAW_DELIVERY).values()) == before + 2
    when = at.strftime("%Y-%m-%d %H:%M:%S.000")
    rig.truth.events["bounce", "mailbox_unknown", large, when] += 1
    rig.truth.denied[large] = "hard_bounce"
    rig.truth.events["delivery", "", many, when] += count


def store_lost(rig: Rig, records: Records, chance: Chance) -> None:
    """The ledger's store is deleted, and later cut, while suppressions are out whose events are not."""
    first, second = halves(records)
    for part, damage in ((first, "delete"), (second, "cut")):
        rig.kill("ledger")
        rig.feed(part)
        rig.run_all("classify")
        rig.dies("ledger", "ledger.after_suppressions")
        for directory in (rig.data_dir / "ledger" / "0").glob("p*"):
            if damage == "delete":
                shutil.rmtree(directory)
            else:
                file = directory / "data.mdb"
                os.truncate(file, int(file.stat().st_size * chance.uniform(0.1, 0.9)))


def store_ahead(rig: Rig, records: Records, chance: Chance) -> None:
    """The ledger's store is ahead of the last emission."""
    second = rig.half_way(records)
    rig.kill("ledger")
    for directory in (rig.data_dir / "ledger" / "0").glob("p*"):
        with Store(directory) as store, store.begin() as tx:
            stands = int.from_bytes(tx.get("meta", b"next") or b"", "big")
            tx.put("meta", b"next", (stands + chance.randint(1, 9)).to_bytes(8, "big"))
    rig.feed(second)
    worker = rig.start("ledger")
    wait_until(lambda: "is ahead of the last emission" in worker.said(), "it is rebuilt")


def store_full(rig: Rig, records: Records, chance: Chance) -> None:
    """The disk of the ledger's store is full: it dies, again and again, until there is room."""
    second = rig.half_way(records)
    worker = rig.ready("ledger")
    sizes = [file.stat().st_size for file in (rig.data_dir / "ledger" / "0").glob("p*/data.mdb")]
    fill_disk(worker.process.pid, min(sizes))
    feeder = rig.feeding(second, 4.0)
    rig.ended(worker, 70)
    feeder.finish()


def offsets_of_ledger_lost(rig: Rig, records: Records, chance: Chance) -> None:
    """The ledger's group is deleted, or set to anywhere: where it goes on is read from store and last emission."""
    second = rig.half_way(records)
    rig.kill("ledger")
    if chance.random() < 0.5:
        rig.delete_group(GROUP_LEDGER)
    else:
        rig.set_offsets(GROUP_LEDGER, {(CLASSIFIED, p): chance.choice((0, 3, 1_000_000)) for p in range(2)})
    rig.feed(second)


ROWS = (
    crash_of_classify,
    crash_of_ledger,
    poison,
    two_owners,
    zombie,
    offsets_of_classify_deleted,
    offsets_of_classify_reset,
    replay_from_an_hour_ago,
    clock_ahead,
    clock_back,
    failed_send_of_classify,
    failed_send_of_ledger,
    oversized,
    store_lost,
    store_ahead,
    store_full,
    offsets_of_ledger_lost,
)
