"""JSON Schema of every record and one AsyncAPI document of all topics, made from the contracts.

The result is checked in under `schemas/generated/`, so that a producer in another language reads a
file, and a change of a contract shows in review. AsyncAPI 3.0.0 with the Kafka bindings 0.5.0
(https://www.asyncapi.com/docs/reference/specification/v3.0.0); JSON Schema is draft 2020-12.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mailecho.schemas import headers as h
from mailecho.schemas import topics as t
from mailecho.schemas.command import COMMAND
from mailecho.schemas.deadletter import DeadLetter, Reason
from mailecho.schemas.event import Event
from mailecho.schemas.suppression import SuppressionEntry

Json = dict[str, Any]

GENERATED = Path(__file__).parent / "generated"

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_BINDING = "0.5.0"
_NUMBER = r"^\d+$"  # headers are bytes: numbers travel as decimal text

#: Every record header of every topic: what it says, and what its text looks like.
HEADERS: dict[str, Json] = {
    h.SCHEMA: {"description": "What the record holds, and its version", "pattern": r"^[a-z-]+/\d+\.\d+$"},
    h.SOURCE: {"description": "Format of the record (postfix, exim, ses, mailecho, …); else it is recognised"},
    h.TENANT: {"description": "Tenant of all events in the record"},
    h.STREAM: {"description": "Mail stream of all events in the record"},
    h.ORIGINAL_SIZE: {"description": "Bytes before intake cut the returned message", "pattern": _NUMBER},
    h.FILE: {"description": "Where intake read it, for people"},
    h.RULES: {"description": "Version of the rules that classified it"},
    h.IDENTITY: {"description": "Fingerprint of the identity key that made the recipient keys"},
    h.ORIGIN: {"description": "Raw records inside: topic:partition:first-last, comma separated"},
    h.EMISSION: {"description": "Offset of the classified record that this one answers", "pattern": _NUMBER},
    h.ROWS: {"description": "Number of event lines", "pattern": _NUMBER},
    h.CHANGES_AT: {"description": "Byte position of the first suppression change in the value", "pattern": _NUMBER},
    h.ANSWERED: {"description": "Append time of that record, epoch milliseconds", "pattern": _NUMBER},
    h.TOTALS: {"description": "JSON object: what the partition's fold has counted so far"},
    h.VERSION: {"description": "Version of the entry; the highest of a key counts", "pattern": _NUMBER},
    h.REASON: {"description": "Why the record could not be used", "enum": [reason.value for reason in Reason]},
    h.DETAIL: {"description": "The reason in words, for people"},
    h.ORIGIN_TOPIC: {"description": "Where the dead letter was"},
    h.ORIGIN_PARTITION: {"description": "Its partition there", "pattern": _NUMBER},
    h.ORIGIN_OFFSET: {"description": "Its offset there", "pattern": _NUMBER},
    h.ORIGIN_TIMESTAMP: {"description": "Its timestamp there, epoch milliseconds", "pattern": _NUMBER},
    h.REDRIVEN: {"description": "How often it has been sent back", "pattern": _NUMBER},
    h.REINSERTED: {"description": "How often a redrive put it back among the dead letters", "pattern": _NUMBER},
}

#: What each role does with which topics: consumer group (None: none), reads, writes.
_ROLES: dict[str, tuple[str | None, tuple[str, ...], tuple[str, ...]]] = {
    "producer": (None, (), t.RAW),
    "client": (None, (), (t.COMMANDS,)),
    "classify": (
        t.GROUP_CLASSIFY,
        t.CLASSIFY_INPUT,
        (t.CLASSIFIED, *(t.dlq(topic) for topic in t.CLASSIFY_INPUT)),
    ),
    "ledger": (t.GROUP_LEDGER, (t.CLASSIFIED,), (t.EVENTS, t.SUPPRESSIONS, t.dlq(t.CLASSIFIED))),
    "lander": (t.GROUP_LANDER, (t.EVENTS,), (t.dlq(t.EVENTS),)),
    "lookup": (None, (t.SUPPRESSIONS,), ()),
}


def export() -> dict[str, str]:
    """All generated files: name to text. The text is JSON in the order of the contracts."""
    documents = {
        "event.schema.json": _titled(Event.model_json_schema(), "event"),
        "command.schema.json": _titled(COMMAND.json_schema(), "command"),
        "suppression.schema.json": _titled(SuppressionEntry.model_json_schema(), "suppression"),
        "dead-letter.schema.json": _titled(_header_schema(_dead_letter_headers()), "dead-letter"),
        "classified.schema.json": _titled(_classified_line(), "classified"),
        "asyncapi.json": _asyncapi(),
    }
    return {name: json.dumps(document, indent=2, ensure_ascii=False) + "\n" for name, document in documents.items()}


def write(directory: Path = GENERATED) -> list[str]:
    """Write the generated files. Returns the names that changed; other files there are left alone."""
    changed = check(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in export().items():
        (directory / name).write_text(text, encoding="utf-8")
    return changed


def check(directory: Path = GENERATED) -> list[str]:
    """Names of the generated files that the directory lacks or has in another version."""
    return [
        name
        for name, text in export().items()
        if not (directory / name).is_file() or (directory / name).read_text(encoding="utf-8") != text
    ]


def _titled(schema: Json, name: str) -> Json:
    return {
        "$schema": _DIALECT,
        "$comment": f"{name}/{h.WRITES[name]}; written by `mailecho schema export`",
        "title": name,
        **schema,
    }


def _classified_line() -> Json:
    """One line of a classified record (see `classified`). A marker is a command line on every partition."""
    return {
        "description": "One line of a micro-batch: an event, a command (or marker), or a copy of a domain fact",
        "oneOf": [
            {
                "title": "event",
                "type": "object",
                "properties": {
                    "row": {"$ref": "event.schema.json"},
                    "address": {"type": "string", "description": "The recipient's clear address; empty if none"},
                },
                "required": ["row", "address"],
            },
            {
                "title": "command",
                "type": "object",
                "properties": {
                    "command": {
                        "description": "The fields of command.schema.json, and what classify made of them",
                        **_object(
                            type={"enum": ["add", "release", "policy"]},
                            id={"type": "string"},
                            received={"type": "integer", "description": "Append time, epoch milliseconds"},
                        ),
                    }
                },
                "required": ["command"],
            },
            {
                "title": "copy",
                "type": "object",
                "properties": {
                    "copy": _object(
                        event_id={"type": "string", "format": "uuid"},
                        domain={"type": "string"},
                        received={"type": "integer", "description": "Append time, epoch milliseconds"},
                    )
                },
                "required": ["copy"],
            },
        ],
    }


def _object(**required: Json) -> Json:
    return {"type": "object", "properties": required, "required": list(required)}


def _dead_letter_headers() -> tuple[str, ...]:
    letter = DeadLetter(reason=Reason.EMPTY, origin_topic="", origin_partition=0, origin_offset=0, origin_timestamp=0)
    return tuple(name for name, _ in letter.headers())


def _header_schema(names: tuple[str, ...]) -> Json:
    return {"type": "object", "properties": {name: {"type": "string", **HEADERS[name]} for name in names}}


#: The other kind of record on the compacted topic: readers of entries pass over it.
_POLICY: Json = {
    "name": "policy",
    "title": "The policy in force on a partition",
    "description": "Key `meta/policy/` and the partition. For the ledger: a lost store is rebuilt from it.",
    "contentType": "application/json",
    "headers": {"type": "object"},
    "payload": {"type": "object"},
    "bindings": {"kafka": {"key": {"type": "string", "pattern": r"^meta/policy/\d+$"}, "bindingVersion": _BINDING}},
}


def _asyncapi() -> Json:
    registry = t.registry()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Mailecho",
            "version": h.WRITES["event"],
            "description": (
                "Topics of the mail feedback pipeline. Partitions, replication and retention are the defaults; "
                "settings change them. A record names what it holds in its header `schema`: readers take every "
                "minor version of a major version they know."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "servers": {
            "kafka": {
                "host": "{bootstrap}",
                "protocol": "kafka",
                "description": "Setting kafka.bootstrap_servers",
                "variables": {"bootstrap": {"default": "localhost:9092"}},
            }
        },
        "channels": {name: _channel(topic) for name, topic in registry.items()},
        "operations": _operations(),
        "components": {"messages": {**{name: _message(topic) for name, topic in registry.items()}, "policy": _POLICY}},
    }


def _channel(topic: t.Topic) -> Json:
    config: Json = {k: int(v) if v.lstrip("-").isdigit() else v for k, v in topic.config().items()}
    config["cleanup.policy"] = [config["cleanup.policy"]]  # the binding wants a list
    return {
        "address": topic.name,
        "title": topic.name,
        "description": topic.holds,
        "messages": {
            "record": {"$ref": f"#/components/messages/{topic.name}"},
            **({"policy": {"$ref": "#/components/messages/policy"}} if topic.name == t.SUPPRESSIONS else {}),
        },
        "bindings": {
            "kafka": {"partitions": topic.partitions, "topicConfiguration": config, "bindingVersion": _BINDING}
        },
    }


def _message(topic: t.Topic) -> Json:
    content, payload = _payload(topic.name)
    # DeadLetter writes them all; the original record's own headers come before
    names = _dead_letter_headers() if topic.name.endswith(".dlq") else topic.headers
    return {
        "name": topic.name,
        "title": topic.holds,
        "description": f"Value: {topic.value}. At most {topic.max_message_bytes} bytes.",
        "contentType": content,
        "headers": _header_schema(names),
        "payload": payload,
        "bindings": {"kafka": {"key": {"type": "string", "description": topic.key}, "bindingVersion": _BINDING}},
    }


def _payload(name: str) -> tuple[str, Json]:
    """Content type and payload schema of a topic's value; for JSON lines the schema is that of one line."""
    if name == t.CLASSIFIED:
        return "application/x-ndjson", _reference("classified")
    if name == t.EVENTS:
        return "application/x-ndjson", _reference("event")
    if name == t.SUPPRESSIONS:
        return "application/json", _reference("suppression")
    if name == t.COMMANDS:
        return "application/json", _reference("command")
    if name in (t.RAW_DSN, t.RAW_ARF):
        return "message/rfc822", {"type": "string", "description": "One message (RFC 5322) as it came"}
    return "application/octet-stream", {"type": "string", "description": "Bytes as they came"}


def _reference(name: str) -> Json:
    return {
        "schemaFormat": "application/schema+json;version=2020-12",
        "schema": {"$ref": f"./{name}.schema.json"},
    }


def _operations() -> Json:
    operations: Json = {}
    for role, (group, reads, writes) in _ROLES.items():
        for action, topics in (("receive", reads), ("send", writes)):
            for topic in topics:
                operation: Json = {
                    "action": action,
                    "channel": {"$ref": f"#/channels/{topic}"},
                    "summary": f"{role} {'reads' if action == 'receive' else 'writes'} {topic}",
                }
                if group and action == "receive":
                    operation["bindings"] = {
                        "kafka": {"groupId": {"type": "string", "enum": [group]}, "bindingVersion": _BINDING}
                    }
                operations[f"{role}.{action}.{topic}"] = operation
    return operations
