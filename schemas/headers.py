"""Record headers: their names, and the schema version that each record carries.

A record says what it holds in the header `schema`, for example `event/1.0`. A reader takes any
minor version of the major version it knows, and refuses a newer major version by name.
"""

from __future__ import annotations

from collections.abc import Iterable

Headers = list[tuple[str, bytes]]

SCHEMA = "schema"

# Raw topics, all optional (DESIGN 2)
SOURCE = "source"
TENANT = "tenant"
STREAM = "stream"
ORIGINAL_SIZE = "original-size"  # bytes before intake cut the returned message
FILE = "file"  # where intake read it, for people

# feedback.classified
RULES = "rules-version"
IDENTITY = "identity"  # fingerprint of the identity key that made the recipient keys
ORIGIN = "origin"  # "topic:partition:first-last", comma separated: the raw records inside

# feedback.events
EMISSION = "n"  # the offset of the `classified` record it answers
ROWS = "rows"
CHANGES_AT = "changes-at"  # byte position of the first suppression change in the value
ANSWERED = "answered"  # append time of that record: tells a recreated topic
TOTALS = "totals"  # JSON: what the partition's fold has counted so far

# feedback.suppressions
VERSION = "version"

# dead letters
REASON = "reason"
DETAIL = "detail"
ORIGIN_TOPIC = "origin-topic"
ORIGIN_PARTITION = "origin-partition"
ORIGIN_OFFSET = "origin-offset"
ORIGIN_TIMESTAMP = "origin-timestamp"
REDRIVEN = "redriven"  # how often it has been sent back
REINSERTED = "reinserted"  # how often a redrive could not send it and put it behind the others

#: The schema versions that this release writes, by name.
WRITES = {
    "classified": "1.0",
    "event": "1.0",
    "suppression": "1.0",
    "command": "1.0",
    "dead-letter": "1.0",
}


class SchemaRefused(ValueError):
    """A record of a schema that this release cannot read; the message names it."""


def schema_header(name: str) -> tuple[str, bytes]:
    """The header that says a record holds `name` in the version we write."""
    return SCHEMA, f"{name}/{WRITES[name]}".encode()


def get(headers: Iterable[tuple[str, bytes]], name: str) -> str | None:
    """The last header of that name as text, or None."""
    found = None
    for key, value in headers or ():
        if key == name:
            found = value
    return None if found is None else found.decode("utf-8", "replace")


def newer(headers: Iterable[tuple[str, bytes]], name: str) -> str | None:
    """The record's schema where it is a newer minor version than the one we write, else None."""
    value = get(headers, SCHEMA) or ""
    have, _, minor = value.rpartition(".")
    known, _, ours = f"{name}/{WRITES[name]}".rpartition(".")
    return value if have == known and minor.isdigit() and int(minor) > int(ours) else None


def check_schema(headers: Iterable[tuple[str, bytes]], name: str) -> None:
    """Raise SchemaRefused unless the record's schema is `name` with a major version that we know.

    A record without the header is taken as version 1.0: a person with a console producer may
    write commands by hand.
    """
    value = get(headers, SCHEMA)
    if value is None:
        return
    have, _, version = value.partition("/")
    major = version.partition(".")[0]
    known = WRITES[name].partition(".")[0]
    if have != name or not major.isdigit():
        raise SchemaRefused(f"header schema={value!r}: this topic holds {name}/{known}.x")
    if int(major) > int(known):
        raise SchemaRefused(
            f"header schema={value!r} is newer than {name}/{known}.x, the newest this release reads: "
            "upgrade this worker first"
        )
