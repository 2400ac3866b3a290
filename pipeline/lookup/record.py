"""One record of `feedback.suppressions` as the lookup keeps it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import orjson
from pydantic import ValidationError

from mailecho.schemas import headers as h
from mailecho.schemas.suppression import State, SuppressionEntry, split_entry_key


class BadRecord(ValueError):
    """A record that is no suppression entry; the message names what is wrong with it."""


class Change(NamedTuple):
    """What a record does to the map: an entry, or its removal (`body` is empty)."""

    key: bytes
    version: int
    state: State | None
    body: bytes  # the entry as JSON, without the fold's own `facts`


def read_change(key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes]]) -> Change:
    """The change that a record stands for: from its key, value and headers as Kafka gives them.

    The entry's version comes from its value, a tombstone's from the header `version`. Raises
    SchemaRefused for a newer major schema, which no reader may skip, and BadRecord for anything
    that the ledger would not have written.
    """
    h.check_schema(headers, "suppression")
    try:
        split_entry_key(key or b"")
    except ValueError:
        raise BadRecord(f"key {key!r} is not scope/scope id/subject/subject key") from None
    assert key is not None
    if value is None:
        version = h.get(headers, h.VERSION)
        if version is None or not version.isdigit():
            raise BadRecord(f"tombstone of {key!r}: header version={version!r} is no offset")
        return Change(key, int(version), None, b"")
    try:
        entry = orjson.loads(value)
        checked = SuppressionEntry.model_validate(entry)
    except (orjson.JSONDecodeError, ValidationError) as error:
        raise BadRecord(f"value of {key!r} is no suppression entry: {error}") from None
    if checked.version < 0:
        raise BadRecord(f"value of {key!r}: version={checked.version} is no offset")
    entry.pop("facts", None)
    return Change(key, checked.version, checked.state, orjson.dumps(entry))
