"""The lookup as a library: asks the map on this machine, neither Kafka nor ClickHouse nor HTTP.

with Lookup(Path("mailecho-data/lookup"), identity) as lookup:
    if lookup.check("user@example.com", tenant="shop")["allowed"]:
        ...
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Self

import lmdb
import orjson
from typing_extensions import TypedDict

from mailecho.pipeline.identity import Identity, IdentityKeyError, NotAnAddress, normalise
from mailecho.pipeline.lookup.decide import Answer, decide
from mailecho.pipeline.lookup.store import Store, StoreUnusable, stored_key, unpack
from mailecho.schemas.suppression import Scope, entry_key

LONGEST_NAME = 200  # of a tenant or stream, as in schemas/command

#: How often a reader looks whether the map was replaced by a new file.
_LOOK_SECONDS = 1.0


class NotReady(RuntimeError):
    """The map does not hold the whole list yet, so that "no entry" would mean nothing."""


class BadName(ValueError):
    """A tenant or stream that cannot be one. `field` says which."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class BadAddress(TypedDict):
    """What stands in the place of an answer where the address was none."""

    address: Any
    error: dict[str, str]


_Domains = dict[str, list[dict[str, Any]]]  # what was found of a domain


class _Scopes(NamedTuple):
    """Entry keys without their subject key, of each scope that reaches a stream."""

    address: tuple[bytes, ...]
    domain: tuple[bytes, ...]


class Lookup:
    """Answers from the map in `directory`. Not for use by several threads at once.

    Raises StoreUnusable where there is no map, IdentityKeyError where it was made under another key.
    """

    def __init__(self, directory: Path, identity: Identity) -> None:
        self._identity = identity
        self._owned = True
        self._store = Store(directory, readonly=True)
        self._next_look = time.monotonic() + _LOOK_SECONDS
        self._check_identity()

    @classmethod
    def over(cls, store: Store, identity: Identity) -> Self:
        """A lookup beside the writer, in its process: LMDB opens a file once in a process."""
        self = cls.__new__(cls)
        self._identity, self._store, self._owned = identity, store, False
        return self

    def check(self, address: str, tenant: str = "", stream: str = "") -> Answer:
        """May this address be mailed in this tenant's stream, now?

        The address is taken as written. Raises NotAnAddress, BadName and NotReady.
        """
        with self._begin() as txn:
            return self._answer(txn, {}, address, _scopes(tenant, stream), _now_ms())

    def check_many(self, addresses: Iterable[Any], tenant: str = "", stream: str = "") -> list[Answer | BadAddress]:
        """Answers in the same order, from one state of the map; an error object for a bad address.

        Raises BadName and NotReady.
        """
        scopes, now = _scopes(tenant, stream), _now_ms()
        domains: _Domains = {}  # a list has far fewer domains than addresses
        results: list[Answer | BadAddress] = []
        with self._begin() as txn:
            for address in addresses:
                try:
                    results.append(self._answer(txn, domains, address, scopes, now))
                except NotAnAddress as error:
                    results.append(bad_address(address, str(error)))
        return results

    def _answer(
        self, txn: lmdb.Transaction[bytes], domains: _Domains, address: str, scopes: _Scopes, now: int
    ) -> Answer:
        if not isinstance(address, str):
            raise NotAnAddress(f"{type(address).__name__} is no address: give a string")
        normalised = normalise(address)
        domain = normalised.rpartition("@")[2]
        found = domains.get(domain)
        if found is None:
            found = domains[domain] = _entries(txn, domain, scopes.domain)
        of_address = _entries(txn, self._identity.key_of(normalised), scopes.address)
        return decide(address, [*of_address, *found] if of_address else found, now)

    def _begin(self) -> lmdb.Transaction[bytes]:
        if self._owned and time.monotonic() >= self._next_look:
            self._follow_file()
        txn = self._store.env.begin(db=self._store.entries)
        if not self._store.is_complete(txn):
            txn.abort()
            raise NotReady("the lookup is still loading the suppression list; try again in a moment")
        return txn

    def _follow_file(self) -> None:
        # A writer that found its file damaged made a new one: the old one says nothing new any more.
        self._next_look = time.monotonic() + _LOOK_SECONDS
        try:
            inode = os.stat(self._store.directory / "data.mdb").st_ino
        except FileNotFoundError:
            inode = -1
        if inode != self._store.inode:
            self._store.close()
            self._store = Store(self._store.directory, readonly=True)
            self._check_identity()

    def _check_identity(self) -> None:
        made_with = self._store.meta().get("identity")
        if made_with is not None and made_with.decode() != self._identity.fingerprint:
            self._store.close()
            raise IdentityKeyError(
                f"the lookup map in {self._store.directory} was made under identity key {made_with.decode()}, "
                f"this is {self._identity.fingerprint}: set identity_key to the one the data was made with"
            )

    def close(self) -> None:
        """Close the map, unless it is the writer's."""
        if self._owned:
            self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def bad_address(address: Any, message: str) -> BadAddress:
    """The error object for an address that is none."""
    shown = address if isinstance(address, str | int | float | bool | None) else None
    return {"address": shown, "error": {"code": "bad_address", "message": message, "field": "address"}}


def _entries(txn: lmdb.Transaction[bytes], subject_key: str, prefixes: tuple[bytes, ...]) -> list[dict[str, Any]]:
    subject, get = subject_key.encode("utf-8", "surrogatepass"), txn.get
    values = [value for prefix in prefixes if (value := get(stored_key(prefix + subject))) is not None]
    return [orjson.loads(stored.body) for stored in map(unpack, values) if stored.state is not None]


@lru_cache(maxsize=4096)
def _scopes(tenant: str, stream: str) -> _Scopes:
    for field, name in (("tenant", tenant), ("stream", stream)):
        if len(name) > LONGEST_NAME:
            raise BadName(field, f"{field} has {len(name)} characters: at most {LONGEST_NAME}")
        if any("\ud800" <= c <= "\udfff" for c in name):
            raise BadName(field, f"{field} is not Unicode text")
    scopes = [(Scope.GLOBAL, ""), (Scope.TENANT, tenant)]
    if stream:
        scopes.append((Scope.STREAM, f"{tenant}/{stream}"))
    return _Scopes(*(tuple(entry_key(*scope, subject, "") for scope in scopes) for subject in ("address", "domain")))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


__all__ = ["Answer", "BadAddress", "BadName", "Lookup", "NotReady", "StoreUnusable", "bad_address"]
