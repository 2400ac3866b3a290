"""The lookup's map: an LMDB environment that holds `feedback.suppressions`, highest version per key.

The offsets that the follower stands at lie in the same transaction as the entries, so a kill at any
point leaves both or neither. The map is a cache of the topic: whatever is wrong with it, it is made
again from the topic.

Databases: `entries` (entry key -> version, state, JSON), `removed` (time and key of tombstones, so
that they can go when the topic has forgotten them too), `counts` (state and reason -> entries),
`offsets` (partition -> next offset) and `meta`.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import struct
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import lmdb
import orjson

from mailecho.pipeline.lookup.record import Change
from mailecho.schemas.suppression import State

log = logging.getLogger(__name__)

#: Address space, not memory or disk: the file grows as entries come. A reader keeps the size it
#: opened with, so it is fixed, and far above what one machine's list needs (about 1 kB an entry).
MAP_BYTES = 128 * 1024**3

#: LMDB takes keys of at most 511 bytes. A tenant and stream of 200 characters each, quoted, can make
#: a longer one, which is kept under its hash.
LONGEST_KEY = 480

#: At most this many old tombstones go with one transaction: removal keeps pace with any rate of
#: change and no transaction grows by more than a few milliseconds.
PURGE_BATCH = 1000

#: Of the values below, and of State's order in them. A map of another format is made again.
FORMAT = b"1"

#: What LMDB raises where the file's content is damaged, as opposed to a full disk or a wrong call.
DAMAGE = (
    lmdb.CorruptedError,
    lmdb.PageNotFoundError,
    lmdb.InvalidError,
    lmdb.VersionMismatchError,
    lmdb.PanicError,
    lmdb.IncompatibleError,
)

_HEAD = struct.Struct(">QB")  # version, state
_U64 = struct.Struct(">Q")
_STATES = tuple(State)
_REMOVED = 255


class StoreLocked(RuntimeError):
    """Another process writes this map; the message names the directory."""


class StoreUnusable(RuntimeError):
    """There is no map to read, or it is damaged; the message says which, and the way on."""


class Stored(NamedTuple):
    """A value of `entries`. `state` is None where the entry was removed."""

    version: int
    state: State | None
    body: bytes  # the entry as JSON; of a removed one the time of removal (8 bytes, epoch ms)


class Page(NamedTuple):
    """Part of the list: entries as JSON objects, and where the next part starts (None: at its end)."""

    entries: list[dict[str, Any]]
    cursor: bytes | None


def stored_key(key: bytes) -> bytes:
    """The key under which LMDB holds an entry key: itself, or a hash of a very long one."""
    return key if len(key) <= LONGEST_KEY else b"#" + hashlib.sha256(key).digest()


def unpack(value: bytes) -> Stored:
    """A value of `entries`, read."""
    version, state = _HEAD.unpack_from(value)
    return Stored(version, None if state == _REMOVED else _STATES[state], value[_HEAD.size :])


class Store:
    """One map. A writer holds the directory's lock; readers in other processes share its pages.

    LMDB allows one open environment of a file in a process: whoever reads beside the writer in its
    own process uses the writer's Store. Raises StoreLocked (writer) and StoreUnusable (reader).
    """

    def __init__(self, directory: Path, *, readonly: bool = False) -> None:
        self.directory = directory
        self.readonly = readonly
        self._lock: int | None = None
        if readonly:
            self._open()
            return
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(directory)
        try:
            self._open()
            if self.meta().get("format") != FORMAT:
                self.clear({})
        except (StoreUnusable, *DAMAGE) as problem:
            log.warning("%s: making the lookup's map again from the topic", problem)
            self.rebuild()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        try:
            self.env = lmdb.open(
                str(self.directory),
                map_size=MAP_BYTES,
                max_dbs=5,
                readonly=self.readonly,
                create=not self.readonly,
                # Point reads at random places: reading ahead would fetch pages that nobody asked for.
                readahead=False,
                max_spare_txns=4,
            )
        except DAMAGE as error:
            raise StoreUnusable(f"{self.directory / 'data.mdb'} is damaged ({error})") from None
        except lmdb.Error as error:
            if not self.readonly:
                raise
            raise StoreUnusable(
                f"no lookup map in {self.directory} ({error}): `mailecho serve` makes it, on this machine"
            ) from None
        try:
            self._check_size()
            databases = (b"entries", b"removed", b"counts", b"offsets", b"meta")
            opened = [self.env.open_db(name, create=not self.readonly) for name in databases]
        except (StoreUnusable, lmdb.Error) as error:
            self.env.close()
            if isinstance(error, StoreUnusable):
                raise
            raise StoreUnusable(f"{self.directory / 'data.mdb'} is damaged or still empty ({error})") from None
        self.entries, self._removed, self._counts, self._offsets, self._meta = opened
        # Unlike any other file's for as long as this one is open.
        self.inode = (self.directory / "data.mdb").stat().st_ino

    def _check_size(self) -> None:
        """Refuse a file that ends before its last page: touching a page behind the end is SIGBUS."""
        needs = self._bytes_used()
        has = (self.directory / "data.mdb").stat().st_size
        if has < needs:
            raise StoreUnusable(f"{self.directory / 'data.mdb'} is truncated: {has} bytes of {needs}")

    def _bytes_used(self) -> int:
        return (self.env.info()["last_pgno"] + 1) * self.env.stat()["psize"]

    def close(self) -> None:
        """Close the environment and give up the lock. Nothing may read or write any more."""
        if hasattr(self, "env"):
            self.env.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def rebuild(self) -> None:
        """Throw a damaged map away and start an empty one. Readers elsewhere notice the new file."""
        if hasattr(self, "env"):
            self.env.close()
        for name in ("data.mdb", "lock.mdb"):
            (self.directory / name).unlink(missing_ok=True)
        self._open()
        self.clear({})

    # What the follower does

    def apply(
        self,
        changes: Iterable[Change],
        offsets: Mapping[int, int],
        *,
        now_ms: int,
        forget_ms: int,
        meta: Mapping[str, bytes] | None = None,
    ) -> int:
        """Take changes and the offsets behind them in one durable transaction; how many counted.

        A change of a lower version than the stored one is passed over, whether entry or tombstone:
        a zombie may have written it later. Tombstones older than `forget_ms` are dropped.
        """
        counted = 0
        delta: Counter[bytes] = Counter()
        with self.env.begin(write=True, db=self.entries) as txn:
            for change in changes:
                key = stored_key(change.key)
                old = txn.get(key)
                if old is not None:
                    if change.version < _HEAD.unpack_from(old)[0]:
                        continue
                    delta.subtract(_count_keys(unpack(old)))
                if change.state is None:
                    txn.put(key, _HEAD.pack(change.version, _REMOVED) + _U64.pack(now_ms))
                    txn.put(_U64.pack(now_ms) + key, b"", db=self._removed)
                else:
                    txn.put(key, _HEAD.pack(change.version, _STATES.index(change.state)) + change.body)
                delta.update(_count_keys(Stored(change.version, change.state, change.body)))
                counted += 1
            for name, change_by in delta.items():
                count = _U64.unpack(txn.get(name, bytes(8), db=self._counts))[0] + change_by
                txn.put(name, _U64.pack(count), db=self._counts)
            for partition, offset in offsets.items():
                txn.put(_U64.pack(partition), _U64.pack(offset), db=self._offsets)
            for text, value in (meta or {}).items():
                txn.put(text.encode(), value, db=self._meta)
            self._purge(txn, now_ms - forget_ms)
        self._fill_up()
        return counted

    def _purge(self, txn: lmdb.Transaction[bytes], before_ms: int) -> None:
        with txn.cursor(self._removed) as cursor:
            for _ in range(PURGE_BATCH):
                if not cursor.first() or _U64.unpack_from(cursor.key())[0] >= before_ms:
                    return
                when, key = cursor.key()[: _U64.size], cursor.key()[_U64.size :]
                cursor.delete()
                value = txn.get(key)
                # the key may have come back since, or may have been removed once more
                if value is not None and unpack(value)[1:] == (None, when):
                    txn.delete(key)

    def _fill_up(self) -> None:
        # LMDB may leave the last pages of a transaction unwritten when it freed them again. Then a
        # sound file would look truncated at the next start.
        file, used = self.directory / "data.mdb", self._bytes_used()
        if file.stat().st_size < used:
            os.truncate(file, used)

    def clear(self, meta: Mapping[str, bytes]) -> None:
        """Empty the map in one transaction and start it with this `meta`."""
        with self.env.begin(write=True) as txn:
            for database in (self.entries, self._removed, self._counts, self._offsets, self._meta):
                txn.drop(database, delete=False)
            for text, value in {"format": FORMAT, **meta}.items():
                txn.put(text.encode(), value, db=self._meta)
        self._fill_up()

    # What readers do

    def meta(self) -> dict[str, bytes]:
        """What is written beside the entries: format, identity, cluster, seen_at, complete, …"""
        with self.env.begin(db=self._meta) as txn:
            return {key.decode(): value for key, value in txn.cursor()}

    def is_complete(self, txn: lmdb.Transaction[bytes]) -> bool:
        """Whether the map has held the whole topic once. Before that, "no entry" means nothing."""
        return txn.get(b"complete", db=self._meta) is not None

    def offsets(self) -> dict[int, int]:
        """The next offset of each partition."""
        with self.env.begin(db=self._offsets) as txn:
            return {_U64.unpack(key)[0]: _U64.unpack(value)[0] for key, value in txn.cursor()}

    def counts(self) -> list[tuple[str, str, int]]:
        """(state, reason, entries), kept up with each change."""
        with self.env.begin(db=self._counts) as txn:
            found = [
                (*key.decode(errors="replace").split("/", 1), _U64.unpack(value)[0]) for key, value in txn.cursor()
            ]
        return [(state, reason, count) for state, reason, count in found if count]

    def page(self, *, state: State | None, limit: int, after: bytes = b"", look_at: int = 5_000) -> Page:
        """Entries in key order behind `after`. At most `look_at` are looked at, so a page of a rare
        state may be short or empty and still have a cursor."""
        found: list[dict[str, Any]] = []
        with self.env.begin(db=self.entries) as txn, txn.cursor() as cursor:
            more = cursor.set_range(after + b"\0") if after else cursor.first()
            for _ in range(look_at):
                if not more:
                    return Page(found, None)
                stored = unpack(cursor.value())
                if stored.state is not None and state in (None, stored.state):
                    found.append(orjson.loads(stored.body))
                after = cursor.key()
                more = cursor.next()
                if len(found) == limit:
                    break
            return Page(found, after if more else None)


def _count_keys(stored: Stored) -> list[bytes]:
    if stored.state is None:
        return []
    return [f"{stored.state}/{orjson.loads(stored.body).get('reason', '')}".encode()[:LONGEST_KEY]]


def _lock(directory: Path) -> int:
    descriptor = os.open(directory / "writer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise StoreLocked(
            f"another process follows the suppression list in {directory}: stop it, or give this one another data_dir"
        ) from None
    return descriptor
