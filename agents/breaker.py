"""Stops a classify worker that would drain a topic into the dead letters.

A broken release, or a producer that changed its format, fails on nearly every record; a few bad records among
good ones are usual, and never stop anything. Two limits of a partition tell them apart: so many failed records in
a row, and a share of the last `window` ones (and what is left of the chunk in which the window begins).

Judged before anything of a step is sent: where a chunk passes a limit, nothing of its step is sent or acknowledged.
What was counted then outlives the process in a small file, so that a restart meets the same limit at the same record,
and a worker that is started over and over again drains nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from mailecho.pipeline.config import DeadLetterSettings
from mailecho.schemas.deadletter import Reason


@dataclass(slots=True)
class _Seen:
    """What a partition's last records were: how many failed at the end, and (records, failed) of recent chunks."""

    run: int = 0
    chunks: deque[tuple[int, int]] = field(default_factory=deque)
    records: int = 0
    failed: int = 0

    def make_room(self, records: int, window: int) -> None:
        """Forget the oldest chunks without which, and with so many records more, the window is full."""
        while self.chunks and self.records + records - self.chunks[0][0] >= window:
            n, bad = self.chunks.popleft()
            self.records -= n
            self.failed -= bad

    def add(self, run: int, records: int, failed: int) -> None:
        """Take in a chunk."""
        self.run = run
        self.chunks.append((records, failed))
        self.records += records
        self.failed += failed


def _runs(run: int, records: int, failed: list[int]) -> tuple[int, int]:
    """The longest run of failed records and the one at the end, `run` having come before. `failed`: positions."""
    longest, last = run, -1
    for position in failed:
        run = run + 1 if position == last + 1 else 1
        longest = max(longest, run)
        last = position
    return longest, run if last == records - 1 else 0


class Breaker:
    """The limits of one worker. `file` keeps what a stopped worker had counted."""

    def __init__(self, limits: DeadLetterSettings, file: Path) -> None:
        self._limits = limits
        self._file = file
        self._seen: dict[tuple[str, int], _Seen] = defaultdict(_Seen, _load(file))
        self._resumed = bool(self._seen)

    def judge(self, chunks: Iterable[tuple[str, int, tuple[int, int], Mapping[int, Reason]]]) -> str:
        """Count the chunks of a step, each of another partition; what to say where one passes a limit, else "".

        A chunk is topic, partition, first and last offset, and the offsets of records of which nothing could be used.
        A record that was sent back from the dead letters and fails again is not among them: a redrive must not stop
        the worker. Where one passes a limit, none of the step is counted.
        """
        counted = []
        for topic, partition, offsets, failed in chunks:
            records = offsets[1] - offsets[0] + 1
            seen = self._seen[topic, partition]
            seen.make_room(records, self._limits.window)
            longest, run = _runs(seen.run, records, sorted(offset - offsets[0] for offset in failed))
            if failed and (why := self._passed(longest, seen.records + records, seen.failed + len(failed))):
                self._save()
                return self._words(topic, partition, offsets, why, failed)
            counted.append((seen, run, records, len(failed)))
        for seen, run, records, bad in counted:
            seen.add(run, records, bad)
        if self._resumed and not any(bad for _, _, _, bad in counted):
            self._file.unlink(missing_ok=True)  # it reads again
            self._resumed = False
        return ""

    def _passed(self, longest: int, total: int, bad: int) -> str:
        if 0 < self._limits.max_consecutive <= longest:
            return f"{longest} records in a row"
        if total >= self._limits.window and bad / total > self._limits.max_ratio:
            return f"{bad} of the last {total} records"
        return ""

    def _words(
        self, topic: str, partition: int, offsets: tuple[int, int], why: str, failed: Mapping[int, Reason]
    ) -> str:
        first, last = offsets
        reasons = ", ".join(f"{reason} {count}" for reason, count in Counter(failed.values()).most_common())
        return (
            f"{topic}[{partition}]: {why} up to offset {last} could not be read (here: {reasons}). This release or "
            "a producer is broken, so classify stops instead of draining the topic into its dead letters. Nothing "
            f"from offset {first} on was sent or acknowledged. Mend it (`mailecho dlq list {topic}` shows the ones "
            "before) and start again: it goes on there. If these records are right to end as dead letters, raise "
            "MAILECHO_DEAD_LETTERS__MAX_CONSECUTIVE (now "
            f"{self._limits.max_consecutive}; 0: no limit) and MAILECHO_DEAD_LETTERS__MAX_RATIO (now "
            f"{self._limits.max_ratio:g}; 1: no limit) until they are passed"
        )

    def _save(self) -> None:
        state = [[*where, seen.run, list(seen.chunks)] for where, seen in self._seen.items() if seen.chunks]
        self._file.parent.mkdir(parents=True, exist_ok=True)
        new = self._file.with_name(self._file.name + ".new")
        new.write_bytes(orjson.dumps(state))
        new.replace(self._file)


def _load(file: Path) -> dict[tuple[str, int], _Seen]:
    found: dict[tuple[str, int], _Seen] = {}
    try:
        for topic, partition, run, chunks in orjson.loads(file.read_bytes()):
            seen = found[str(topic), int(partition)] = _Seen()
            for records, failed in chunks:
                seen.add(int(run), int(records), int(failed))
    except (OSError, ValueError, TypeError):
        return {}  # none, or cut by a power cut: count anew
    return found
