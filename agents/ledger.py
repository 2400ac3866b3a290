"""The ledger agent: steps of `classified` folded, suppressions and events sent, then the stores committed.

The order is what makes it exact: dead letters, suppressions, output records, each acknowledged;
then the transactions of the stores; then the step is done. A crash anywhere repeats with the same
bytes what its stores do not have, partition by partition, and readers drop what they have passed.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Iterable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import TypeAlias

from aiokafka.structs import ConsumerRecord

from mailecho.agents.catchup import Owned, catch_up
from mailecho.agents.exits import crash, refuse
from mailecho.agents.outputs import Outputs, Record
from mailecho.agents.transport import Step
from mailecho.pipeline import metrics
from mailecho.pipeline.faults import point
from mailecho.pipeline.ledger.emit import event_record, suppression_records
from mailecho.pipeline.ledger.fold import Fold, NotClassified, Output
from mailecho.pipeline.ledger.places import Places
from mailecho.pipeline.ledger.store import StoreInUse, Transaction
from mailecho.pipeline.side import Side, side_reader
from mailecho.schemas import headers as h
from mailecho.schemas.deadletter import DeadLetter, Reason
from mailecho.schemas.topics import CLASSIFIED, EVENTS, SUPPRESSIONS, dlq

#: Records of a partition, each with what it leads to.
Folded: TypeAlias = list[tuple[ConsumerRecord, Output]]


class LedgerAgent:
    """Handles the steps of one worker, over the partitions that it owns."""

    def __init__(
        self, bootstrap: str, fold: Fold, outputs: Outputs, places: Places, directory: Path, fingerprint: str
    ) -> None:
        self._bootstrap = bootstrap
        self._fold = fold
        self._outputs = outputs
        self._places = places
        self._directory = directory
        self._fingerprint = fingerprint
        self._locks: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.owned: dict[int, Owned] = {}

    async def take_over(self, partitions: set[int], committed: dict[int, int]) -> dict[int, int]:
        """Own exactly these partitions; returns the offset at which each goes on.

        A partition that stays keeps its store open: the chunk under way ends first.
        """
        for gone in set(self.owned) - partitions:
            async with self._locks[gone]:
                self.owned.pop(gone).store.close()
        fresh = sorted(partitions - set(self.owned))
        if fresh:
            async with side_reader(self._bootstrap) as side:
                for partition in fresh:
                    with metrics.CATCHING_UP.track_inprogress():
                        self.owned[partition] = await self._open(side, partition, committed.get(partition, 0))
        return {partition: owned.next for partition, owned in self.owned.items()}

    async def handle(self, step: Step) -> None:
        """Fold the chunks of a step; return when all they lead to is acknowledged and the stores have it."""
        async with AsyncExitStack() as locks:
            for chunk in step:
                await locks.enter_async_context(self._locks[chunk[0].partition])
            started = time.monotonic()
            chunks = {}
            for chunk in step:
                partition = chunk[0].partition
                if (owned := self.owned.get(partition)) is None:
                    continue  # of an assignment that is over; its owner reads it
                records = [record for record in chunk if record.offset >= owned.next]
                if records and records[0].offset != owned.next:
                    crash(f"{CLASSIFIED}[{partition}]: got offset {records[0].offset}, expected {owned.next}")
                if records:
                    chunks[partition] = (owned, records)
            if not chunks:
                return
            with ExitStack() as stores:
                letters: list[Record] = []
                outputs = {
                    partition: self._fold_all(stores.enter_context(owned.store.begin()), records, letters)
                    for partition, (owned, records) in chunks.items()
                }
                await self._send(outputs, letters)
                point("ledger.before_commit")
            for owned, records in chunks.values():
                owned.next = records[-1].offset + 1
            point("ledger.after_commit")
            _count(outputs.values(), time.monotonic() - started)

    def _fold_all(self, tx: Transaction, records: list[ConsumerRecord], letters: list[Record]) -> Folded:
        outputs = []
        for record in records:
            self._check(record)
            try:
                output = self._fold.apply(tx, record.offset, record.value or b"")
            except NotClassified as error:
                letters.append(_letter(record, Reason.UNREADABLE, str(error), record.value or b""))
                output = self._fold.skip(tx, record.offset)
            letters.extend(_letter(record, Reason.LATE, why, line) for line, why in output.late)
            outputs.append((record, output))
        return outputs

    async def _send(self, folded: dict[int, Folded], letters: list[Record]) -> None:
        point("ledger.before_send")
        if letters:
            await self._outputs.send([(dlq(CLASSIFIED), 0, letters)])
        changes = ((partition, _changes(outputs, partition)) for partition, outputs in folded.items())
        await self._outputs.send((SUPPRESSIONS, partition, records) for partition, records in changes if records)
        point("ledger.after_suppressions")
        await self._outputs.send(
            (EVENTS, partition, [_emission(record, output, partition) for record, output in outputs])
            for partition, outputs in folded.items()
        )
        point("ledger.after_send")

    async def _open(self, side: Side, partition: int, committed: int) -> Owned:
        directory = self._directory / f"p{partition}"
        for patience in range(20):
            try:
                return await catch_up(side, self._outputs, self._fold, self._places, directory, partition, committed)
            except StoreInUse as error:
                # the process before this one may take a moment to end
                if patience == 19:
                    refuse(str(error))
                await asyncio.sleep(0.5)
        raise AssertionError("unreachable")

    def _check(self, record: ConsumerRecord) -> None:
        try:
            h.check_schema(record.headers, "classified")
        except h.SchemaRefused as error:
            refuse(f"{CLASSIFIED}[{record.partition}] offset {record.offset}: {error}")
        fingerprint = h.get(record.headers, h.IDENTITY)
        if fingerprint is not None and fingerprint != self._fingerprint:
            refuse(
                f"{CLASSIFIED}[{record.partition}] offset {record.offset} was keyed under identity key {fingerprint}, "
                f"this worker has {self._fingerprint}: every role needs the same identity_key, for the life of the data"
            )


def _letter(record: ConsumerRecord, reason: Reason, detail: str, value: bytes) -> Record:
    metrics.DEAD_LETTERS.labels(CLASSIFIED, reason.value).inc()
    dead = DeadLetter(
        reason=reason,
        detail=detail,
        origin_topic=CLASSIFIED,
        origin_partition=record.partition,
        origin_offset=record.offset,
        origin_timestamp=record.timestamp,
    )
    return Record(value, headers=dead.headers())


def _changes(outputs: Folded, partition: int) -> list[Record]:
    return [
        Record(value, key, headers)
        for _, output in outputs
        for key, value, headers in suppression_records(output, partition)
    ]


def _emission(record: ConsumerRecord, output: Output, partition: int) -> Record:
    value, headers = event_record(output, partition, record.timestamp)
    return Record(value, headers=headers)


def _count(folded: Iterable[Folded], seconds: float) -> None:
    outputs = [output for records in folded for _, output in records]
    metrics.RECORDS.labels(CLASSIFIED).inc(len(outputs))
    metrics.EVENTS.inc(sum(len(output.rows) for output in outputs))
    metrics.LATE.inc(sum(len(output.late) for output in outputs))
    metrics.BATCH_SECONDS.labels("ledger").observe(seconds)
    for output in outputs:
        for change in output.changes:
            metrics.SUPPRESSION_CHANGES.labels(change.entry["state"]).inc()
