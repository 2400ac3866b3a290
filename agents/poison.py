"""A record on which a worker died three times is dead-lettered (DESIGN 2, point 1).

A small file says what is being read right now. A worker that finds it filled at its start died
there; it then reads that chunk record by record, naming each in the file first, so that the next
death says which record it was.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

import orjson

DEATHS = 3


@dataclass(frozen=True, slots=True)
class _Mark:
    topic: str
    partition: int
    first: int
    last: int
    deaths: int = 0  # of earlier processes, at just this range

    def covers(self, topic: str, partition: int, offset: int) -> bool:
        return (topic, partition) == (self.topic, self.partition) and self.first <= offset <= self.last


class Inflight:
    """What this worker instance is reading, in a file that outlives it."""

    def __init__(self, file: Path) -> None:
        """Raises OSError where the directory cannot be written."""
        file.parent.mkdir(parents=True, exist_ok=True)
        self._suspect = _load(file)
        self._file = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)

    def suspicious(self, topic: str, partition: int, first: int, last: int) -> bool:
        """Whether an earlier process died somewhere in these offsets: then read them one by one."""
        s = self._suspect
        return s is not None and (topic, partition) == (s.topic, s.partition) and first <= s.last and s.first <= last

    def poisonous(self, topic: str, partition: int, offset: int) -> bool:
        """Whether DEATHS processes died on just this record."""
        s = self._suspect
        return s is not None and s.first == s.last and s.covers(topic, partition, offset) and s.deaths >= DEATHS

    def reading(self, topic: str, partition: int, first: int, last: int) -> Inflight:
        """Used as `with inflight.reading(…):` around the reading of these offsets, and nothing else."""
        s = self._suspect
        # the deaths of a whole chunk count for the record that is looked at alone, the first time
        deaths = s.deaths if s and s.covers(topic, partition, first) and s.covers(topic, partition, last) else 0
        self._write(orjson.dumps(asdict(_Mark(topic, partition, first, last, deaths))))
        return self

    def __enter__(self) -> Inflight:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._write(b"")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _write(self, data: bytes) -> None:
        # no fsync: it must outlive this process, not the machine
        os.pwrite(self._file, data.ljust(256, b"\n"), 0)


def _load(file: Path) -> _Mark | None:
    try:
        found = orjson.loads(file.read_bytes().strip() or b"null")
    except (OSError, orjson.JSONDecodeError):
        return None
    return _Mark(**{**found, "deaths": found["deaths"] + 1}) if found else None
