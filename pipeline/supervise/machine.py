"""Marks beside the data: which boot of the machine it was open in, and under which identity key.

A broker acknowledges from the page cache. A killed process loses nothing of it; a power cut may cut
off the tail of a partition. So after a stop of the machine that `up` did not see coming, `classified`
is padded up to what was emitted of it, and classify reads the last hour again (DESIGN 2, point 2):
what was kept is dropped as duplicates.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
import psutil

from mailecho.pipeline.endpoints import run_dir, write_atomically
from mailecho.pipeline.identity import Identity, IdentityKeyError
from mailecho.schemas.headers import schema_header
from mailecho.schemas.topics import CLASSIFIED, CLASSIFY_INPUT, GROUP_CLASSIFY, HOUR_MS

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

#: A broker that was cut off still counts the old members until their sessions end (at most 30 s).
COMMIT_SECONDS = 60.0


def boot_id() -> str:
    """What tells this boot of the machine from another."""
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return f"minute-{int(psutil.boot_time() // 60)}"


class MachineMark:
    """`run/machine.json`: the boot in which the directory was opened, and whether it was closed since."""

    def __init__(self, data_dir: Path) -> None:
        self._file = run_dir(data_dir) / "machine.json"
        self._open = False

    def stopped_unclean(self) -> bool:
        """Whether the data was open when the machine went down."""
        try:
            mark = orjson.loads(self._file.read_bytes())
            return not mark["clean"] and mark["boot"] != boot_id()
        except FileNotFoundError:
            return False  # a first start
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return True  # the mark itself was cut off

    def open(self) -> None:
        """The data is in use from now on."""
        self._open = True
        self._write(clean=False)

    def close(self) -> None:
        """All parts have stopped as asked. A mark that was not opened stays as it was."""
        if self._open:
            self._write(clean=True)

    def _write(self, *, clean: bool) -> None:
        write_atomically(self._file, orjson.dumps({"boot": boot_id(), "clean": clean}))
        descriptor = os.open(self._file, os.O_RDONLY)  # the mark is about power cuts: it must be on the disk
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_fingerprint(data_dir: Path, identity: Identity) -> None:
    """Store the key's fingerprint at the first start; raise IdentityKeyError where it is another one."""
    file = data_dir / "identity.fingerprint"
    try:
        known = file.read_text().strip()
    except FileNotFoundError:
        write_atomically(file, identity.fingerprint.encode() + b"\n")
        return
    if known != identity.fingerprint:
        raise IdentityKeyError(
            f"identity_key (fingerprint {identity.fingerprint}) is not the one that {data_dir} was made with "
            f"({known}): every suppression would be orphaned. Put the old key back, or start on an empty --data-dir"
        )


async def pad_classified(bootstrap: str) -> int:
    """Fill `classified` up to its last emissions where the broker has lost its end; says by how many records.

    To be done before classify runs, which would write under numbers that were used. A topic that holds
    nothing is left to the ledger, which refuses it: it is another one.
    """
    from aiokafka import AIOKafkaProducer

    from mailecho.pipeline.emission import last_emission
    from mailecho.pipeline.partitions import partitions_of
    from mailecho.pipeline.side import side_reader

    padded = 0
    places, _ = await partitions_of(bootstrap, [CLASSIFIED])
    async with side_reader(bootstrap) as side, AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all") as producer:
        for place in places:
            emission = await last_emission(side, place.partition)
            _, end = await side.span(CLASSIFIED, place.partition)
            for _ in range(emission.n + 1 - end if emission and end else 0):
                await producer.send_and_wait(
                    CLASSIFIED, b"", partition=place.partition, headers=[schema_header("classified")]
                )
                padded += 1
    return padded


async def rewind(bootstrap: str, topics: Iterable[str] = CLASSIFY_INPUT, group: str = GROUP_CLASSIFY) -> int:
    """Set the group's offsets back to one hour before the last record that each has read.

    The group's workers must not run. Gives how many records will be read again. Raises
    TimeoutError where the group still has members after COMMIT_SECONDS.
    """
    from aiokafka import AIOKafkaConsumer
    from aiokafka.errors import KafkaError

    from mailecho.pipeline.partitions import partitions_of

    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False)
    await consumer.start()
    try:
        places, _ = await partitions_of(bootstrap, topics)
        consumer.assign(places)
        targets: dict[Any, int] = {}
        again = 0
        for place in places:
            committed = await consumer.committed(place)
            if committed is None:
                continue
            target, end = await _an_hour_before(consumer, place, committed)
            if target != committed:
                targets[place] = target
                again += end - target
        if targets:
            async with asyncio.timeout(COMMIT_SECONDS):
                while True:
                    try:
                        await consumer.commit(targets)
                        break
                    except KafkaError:
                        await asyncio.sleep(1.0)
        return again
    finally:
        await consumer.stop()


async def _an_hour_before(consumer: Any, place: Any, committed: int) -> tuple[int, int]:
    """Where to read again from, and where what was read ends (below `committed` if the log lost its tail)."""
    begin = (await consumer.beginning_offsets([place]))[place]
    end = min(committed, (await consumer.end_offsets([place]))[place])
    if end <= begin:
        return end, end
    consumer.seek(place, end - 1)
    record = await consumer.getone(place)
    found = (await consumer.offsets_for_times({place: record.timestamp - HOUR_MS}))[place]
    return min(end, found.offset if found else end), end
