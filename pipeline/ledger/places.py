"""Which partition a line of `classified` and an entry of the suppression list belong to.

They were written there. Once partitions have been added, an older one still holds lines of keys that moved away:
whoever folds it again leaves them out, since the partition that has them now holds a copy (`pipeline.growth`).
"""

from __future__ import annotations

import orjson

from mailecho.pipeline import ids
from mailecho.pipeline.identity import Identity
from mailecho.schemas.classified import COMMAND_PREFIX, COPY_PREFIX, ID_AT, ID_END, ROW_PREFIX
from mailecho.schemas.event import NO_ID
from mailecho.schemas.suppression import split_entry_key
from mailecho.schemas.topics import partition_of

_KEY = b'","recipient_key":"'
_KEY_AT = ID_END + len(_KEY)


class Places:
    """The partitions of keys, under one identity."""

    def __init__(self, identity: Identity, partitions: int) -> None:
        self.partitions = partitions
        self._identity = identity

    def of_line(self, line: bytes) -> int | None:
        """The partition of a line; None for one that goes to all, or that is no line of ours."""
        if line.startswith(ROW_PREFIX):
            if line[ID_END:_KEY_AT] == _KEY:
                key = line[_KEY_AT : _KEY_AT + 36].decode("ascii", "replace")
                if key != NO_ID:
                    return self._of(key)
            return self._of(ids.place(line[ID_AT:ID_END].decode("ascii", "replace")))
        try:
            if line.startswith(COPY_PREFIX):
                return self._of_domain(orjson.loads(line)["copy"]["domain"])
            if line.startswith(COMMAND_PREFIX):
                command = orjson.loads(line)["command"]
                if command["type"] == "policy":
                    return None
                of = self._of_domain if command["subject"] == "domain" else self._of
                return of(command["subject_key"])
        except (KeyError, TypeError, ValueError):
            pass
        return None

    def of_entry(self, key: bytes) -> int | None:
        """The partition of an entry of the suppression list, by its key on the topic."""
        _scope, _id, subject, subject_key = split_entry_key(key)
        return self._of_domain(subject_key) if subject == "domain" else self._of(subject_key)

    def only(self, value: bytes, partition: int) -> bytes:
        """The lines of a record that belong to a partition, or to all."""
        lines = value.split(b"\n")
        kept = [line for line in lines if self.of_line(line) in (partition, None)]
        return value if len(kept) == len(lines) else b"\n".join(kept)

    def _of(self, key: str) -> int | None:
        try:
            return partition_of(key, self.partitions)
        except ValueError:
            return None

    def _of_domain(self, domain: str) -> int | None:
        return self._of(self._identity.domain_key(domain))
