"""The ledger's local store: one LMDB environment a partition, a cache of the fold.

The store holds the offset it stands at, in the same transaction as what it knows, so it is never
half a record ahead. Whoever finds it damaged throws it away: it is rebuilt from the topics.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import lmdb

log = logging.getLogger(__name__)

#: Address space, not memory and not disk: a store grows with its ids (about 60 bytes each).
MAP_SIZE = 1 << 40
#: A bucket a day for each of two windows (at most 32 and 5 alive), generations, state.
MAX_DATABASES = 256


class Transaction(Protocol):
    """What the fold needs of a store: named maps of bytes, changed together or not at all."""

    def get(self, db: str, key: bytes) -> bytes | None:
        """The value, or None (also where the map does not exist)."""

    def put(self, db: str, key: bytes, value: bytes) -> None:
        """Set a value; the map is made where it does not exist."""

    def add(self, db: str, key: bytes, value: bytes) -> bool:
        """Set a value unless the key has one; True if it had none."""

    def delete(self, db: str, key: bytes) -> None:
        """Remove a key if it is there."""

    def drop(self, db: str) -> None:
        """Remove a whole map if it is there."""

    def exists(self, db: str) -> bool:
        """Whether the map exists."""

    def names(self, prefix: str) -> list[str]:
        """The names of maps that begin so, in order."""

    def items(self, db: str) -> Iterator[tuple[bytes, bytes]]:
        """All of a map in order of keys, which nobody changes meanwhile."""


class StoreInUse(RuntimeError):
    """Another process holds the store's directory."""


class StoreDamaged(RuntimeError):
    """The store's file cannot be what was written; it must be thrown away."""


class _LmdbTransaction:
    def __init__(self, store: Store, txn: lmdb.Transaction) -> None:
        self._store = store
        self._txn = txn
        self._handles = store.handles

    def get(self, db: str, key: bytes) -> bytes | None:
        handle = self._handles.get(db)
        # without `buffers=True` a value is always bytes
        return None if handle is None else self._txn.get(key, db=handle)  # type: ignore[return-value]

    def put(self, db: str, key: bytes, value: bytes) -> None:
        self._txn.put(key, value, db=self._handles.get(db) or self._create(db))

    def add(self, db: str, key: bytes, value: bytes) -> bool:
        return bool(self._txn.put(key, value, db=self._handles.get(db) or self._create(db), overwrite=False))

    def delete(self, db: str, key: bytes) -> None:
        handle = self._handles.get(db)
        if handle is not None:
            self._txn.delete(key, db=handle)

    def drop(self, db: str) -> None:
        handle = self._handles.pop(db, None)
        if handle is not None:
            self._txn.drop(handle, delete=True)
            self._store.committed.discard(db)

    def exists(self, db: str) -> bool:
        return db in self._handles

    def names(self, prefix: str) -> list[str]:
        return sorted(name for name in self._handles if name.startswith(prefix))

    def items(self, db: str) -> Iterator[tuple[bytes, bytes]]:
        handle = self._handles.get(db)
        if handle is not None:
            for key, value in self._txn.cursor(db=handle):
                yield bytes(key), bytes(value)

    def _create(self, db: str) -> Any:
        handle = self._handles[db] = self._store.env.open_db(db.encode(), txn=self._txn)
        return handle


class Store:
    """An open store. One process at a time owns its directory."""

    def __init__(self, directory: Path) -> None:
        """Open or create. Raises StoreInUse, StoreDamaged."""
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise StoreInUse(f"another process holds {directory}: does a second worker of this instance run?") from None
        #: Of every map there is, those that a transaction under way has made among them.
        self.handles: dict[str, Any] = {}
        #: The maps of the last commit: a reader must not use a handle that is newer.
        self.committed: set[str] = set()
        try:
            self.env = lmdb.open(str(directory / "data.mdb"), subdir=False, map_size=MAP_SIZE, max_dbs=MAX_DATABASES)
        except lmdb.Error as error:
            os.close(self._lock)
            raise StoreDamaged(f"{directory}: {error}") from None
        try:
            self._check_size()
            self._open_all()
        except (lmdb.Error, UnicodeDecodeError) as error:
            self.close()
            raise StoreDamaged(f"{directory}: {error}") from None
        except StoreDamaged:
            self.close()
            raise

    @contextmanager
    def begin(self) -> Iterator[Transaction]:
        """A write transaction: committed and on disk at the end of the block, undone when it raises."""
        txn = self.env.begin(write=True)
        try:
            yield _LmdbTransaction(self, txn)
        except BaseException:
            txn.abort()
            # maps made in an undone transaction are not there, and their handles are invalid
            self._open_all()
            raise
        txn.commit()
        self.committed.update(self.handles)
        self._pad()

    def peek(self, db: str, key: bytes) -> bytes | None:
        """A value as of the last commit, beside a transaction that may be under way."""
        if db not in self.committed:
            return None
        with self.env.begin() as txn:
            return txn.get(key, db=self.handles[db])

    def close(self) -> None:
        """Give the directory back."""
        self.env.close()
        os.close(self._lock)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _open_all(self) -> None:
        with self.env.begin(write=True) as txn:
            self.committed = {bytes(key).decode() for key, _ in txn.cursor()}
            self.handles = {name: self.env.open_db(name.encode(), txn=txn, create=False) for name in self.committed}

    def _needed(self) -> int:
        return int((self.env.info()["last_pgno"] + 1) * self.env.stat()["psize"])

    def _check_size(self) -> None:
        # A page beyond the end of a truncated file is a SIGBUS when read: look before.
        size = os.stat(self.directory / "data.mdb").st_size
        if size < self._needed():
            raise StoreDamaged(f"{self.directory}: the file has {size} bytes, its last page ends at {self._needed()}")

    def _pad(self) -> None:
        # LMDB may leave a last page that it freed again unwritten; then a whole file would look truncated.
        needed = self._needed()
        if os.stat(self.directory / "data.mdb").st_size < needed:
            os.truncate(self.directory / "data.mdb", needed)


def open_or_discard(directory: Path) -> Store:
    """Open a store; a damaged one is thrown away and made anew (its owner rebuilds it). Raises StoreInUse."""
    try:
        return Store(directory)
    except StoreDamaged as error:
        log.error("the ledger's store is damaged and is rebuilt from the topics: %s", error)
        discard(directory)
        return Store(directory)


def discard(directory: Path) -> None:
    """Remove a store that no process has open."""
    shutil.rmtree(directory, ignore_errors=True)


class MemoryStore:
    """The same in dictionaries, for tests and for `verify`, which folds from the beginning."""

    def __init__(self) -> None:
        self.maps: dict[str, dict[bytes, bytes]] = {}

    @contextmanager
    def begin(self) -> Iterator[Transaction]:
        """A transaction that cannot be undone: whoever folds in memory starts again instead."""
        yield self

    def get(self, db: str, key: bytes) -> bytes | None:
        return self.maps.get(db, {}).get(key)

    def put(self, db: str, key: bytes, value: bytes) -> None:
        self.maps.setdefault(db, {})[key] = value

    def add(self, db: str, key: bytes, value: bytes) -> bool:
        values = self.maps.setdefault(db, {})
        if key in values:
            return False
        values[key] = value
        return True

    def delete(self, db: str, key: bytes) -> None:
        self.maps.get(db, {}).pop(key, None)

    def drop(self, db: str) -> None:
        self.maps.pop(db, None)

    def exists(self, db: str) -> bool:
        return db in self.maps

    def names(self, prefix: str) -> list[str]:
        return sorted(name for name in self.maps if name.startswith(prefix))

    def items(self, db: str) -> Iterator[tuple[bytes, bytes]]:
        yield from sorted(self.maps.get(db, {}).items())
