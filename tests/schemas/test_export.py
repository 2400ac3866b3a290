"""The generated contracts: current, valid, and true to what the code reads and writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import orjson
import pytest
from referencing import Registry, Resource

from mailecho.schemas import export, topics
from mailecho.schemas.classified import event_line
from mailecho.schemas.command import COMMAND, Add, PolicyChange, Release
from mailecho.schemas.deadletter import DeadLetter, Reason
from mailecho.schemas.event import NO_ID
from mailecho.schemas.suppression import Evidence, Scope, State, SuppressionEntry
from tests.schemas.rows import dump_row

FILES: dict[str, Any] = {name: json.loads(text) for name, text in export.export().items()}

REGISTRY: Registry[Any] = Registry().with_resources(
    (name, Resource.from_contents(schema)) for name, schema in FILES.items() if name.endswith(".schema.json")
)


def validator(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator({"$ref": f"{name}.schema.json"}, registry=REGISTRY)


def row(**values: Any) -> dict[str, Any]:
    return {
        "event_id": "018f0000-0000-7000-8000-000000000001",
        "kind": "bounce",
        "received_at": "2026-01-02 03:04:05.678",
        "occurred_at": "2026-01-02 03:04:05.000",
        "raw_topic": topics.RAW_DSN,
        "raw_partition": 0,
        "raw_offset": 7,
        **values,
    }


def test_the_checked_in_files_are_current() -> None:
    assert export.check() == [], "run `mailecho schema export`"
    assert {path.name for path in export.GENERATED.glob("*.json")} == set(FILES)


def test_check_names_what_differs_and_write_mends_it(tmp_path: Path) -> None:
    assert export.check(tmp_path) == sorted(FILES, key=list(FILES).index)
    export.write(tmp_path)
    (tmp_path / "event.schema.json").write_text("{}")
    (tmp_path / "theirs.json").write_text("{}")
    assert export.check(tmp_path) == ["event.schema.json"]
    assert export.write(tmp_path) == ["event.schema.json"]
    assert export.check(tmp_path) == []
    assert (tmp_path / "theirs.json").read_text() == "{}"


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".schema.json")])
def test_every_schema_is_a_schema(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(FILES[name])


def test_lines_of_classified() -> None:
    line = validator("classified")
    line.validate(json.loads(event_line(dump_row(row()), 'a"},"address":@example.com')))
    for wrong in ({}, {"row": row()}, {"row": row(kind="no such kind"), "address": ""}, {"command": {"type": "add"}}):
        assert not line.is_valid(wrong), wrong


def test_records_that_the_models_write_are_valid() -> None:
    validator("event").validate(orjson.loads(dump_row(row())))
    for command in (
        Add(id="12345678", domain="example.com"),
        Release(id="12345678", address="a@example.com", scope=Scope.GLOBAL),
        PolicyChange(id="12345678", policy={"version": 1}),
    ):
        validator("command").validate(json.loads(COMMAND.dump_json(command)))
    entry = SuppressionEntry(
        scope=Scope.STREAM,
        scope_id="shop/news",
        subject="address",
        subject_key=NO_ID,
        state=State.ACTIVE,
        evidence=Evidence(event_ids=[NO_ID], count=1),
        version=3,
    )
    validator("suppression").validate(json.loads(entry.model_dump_json()))
    letter = DeadLetter(
        reason=Reason.LATE, origin_topic="t", origin_partition=1, origin_offset=2, origin_timestamp=3, redriven=1
    )
    headers = {name: value.decode() for name, value in letter.headers()}
    validator("dead-letter").validate(headers)
    assert set(headers) == set(FILES["dead-letter.schema.json"]["properties"])


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        found = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return found + [ref for value in node.values() for ref in references(value)]
    if isinstance(node, list):
        return [ref for value in node for ref in references(value)]
    return []


#: The parts of AsyncAPI 3.0.0 (https://www.asyncapi.com/docs/reference/specification/v3.0.0) that
#: the document uses. The official schema was run against it too; it is not kept here for its size.
_REF = {"type": "object", "properties": {"$ref": {"type": "string"}}, "required": ["$ref"], "maxProperties": 1}
_BINDINGS = {
    "type": "object",
    "properties": {"kafka": {"type": "object", "properties": {"bindingVersion": {"const": "0.5.0"}}}},
    "additionalProperties": False,
}
_TEXT = {"type": "string", "minLength": 1}
ASYNCAPI = {
    "type": "object",
    "required": ["asyncapi", "info", "channels", "operations"],
    "additionalProperties": False,
    "properties": {
        "asyncapi": {"const": "3.0.0"},
        "info": {"type": "object", "required": ["title", "version"]},
        "servers": {"type": "object", "additionalProperties": {"type": "object", "required": ["host", "protocol"]}},
        "channels": {
            "type": "object",
            "propertyNames": {"pattern": r"^[\w.-]+$"},
            "additionalProperties": {
                "type": "object",
                "required": ["address", "description", "messages", "bindings"],
                "additionalProperties": False,
                "properties": {
                    "address": _TEXT,
                    "title": _TEXT,
                    "description": _TEXT,
                    "messages": {"type": "object", "additionalProperties": _REF},
                    "bindings": {
                        **_BINDINGS,
                        "required": ["kafka"],
                        "properties": {
                            "kafka": {
                                "type": "object",
                                "additionalProperties": False,
                                "properties": {
                                    "partitions": {"type": "integer", "minimum": 1},
                                    "bindingVersion": {"const": "0.5.0"},
                                    "topicConfiguration": {
                                        "type": "object",
                                        "required": ["cleanup.policy", "retention.ms", "max.message.bytes"],
                                        "properties": {
                                            "cleanup.policy": {
                                                "type": "array",
                                                "items": {"enum": ["compact", "delete"]},
                                            },
                                            "retention.ms": {"type": "integer", "minimum": -1},
                                            "delete.retention.ms": {"type": "integer"},
                                            "max.message.bytes": {"type": "integer"},
                                        },
                                    },
                                },
                            }
                        },
                    },
                },
            },
        },
        "operations": {
            "type": "object",
            "propertyNames": {"pattern": r"^[\w.-]+$"},
            "additionalProperties": {
                "type": "object",
                "required": ["action", "channel"],
                "additionalProperties": False,
                "properties": {
                    "action": {"enum": ["send", "receive"]},
                    "channel": _REF,
                    "summary": _TEXT,
                    "bindings": _BINDINGS,
                },
            },
        },
        "components": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "messages": {
                    "type": "object",
                    "additionalProperties": {
                        "type": "object",
                        "required": ["contentType", "headers", "payload"],
                        "additionalProperties": False,
                        "properties": {
                            "name": _TEXT,
                            "title": _TEXT,
                            "description": _TEXT,
                            "contentType": _TEXT,
                            "headers": {"type": "object", "required": ["type"]},
                            "payload": {
                                "oneOf": [
                                    {
                                        "required": ["schemaFormat", "schema"],
                                        "properties": {"schema": _REF},
                                        "maxProperties": 2,
                                    },
                                    {"required": ["type"], "properties": {"type": {"enum": ["string", "object"]}}},
                                ]
                            },
                            "bindings": _BINDINGS,
                        },
                    },
                }
            },
        },
    },
}


def test_asyncapi_is_well_formed() -> None:
    jsonschema.Draft202012Validator(ASYNCAPI).validate(FILES["asyncapi.json"])


def test_asyncapi_references_lead_somewhere() -> None:
    document = FILES["asyncapi.json"]
    for reference in references(document):
        if reference.startswith("./"):
            assert reference.removeprefix("./") in FILES
            continue
        node = document
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]


def test_asyncapi_has_every_topic_as_the_registry_has_it() -> None:
    document = FILES["asyncapi.json"]
    assert set(document["channels"]) == set(topics.registry())
    for name, topic in topics.registry().items():
        kafka = document["channels"][name]["bindings"]["kafka"]
        assert kafka["partitions"] == topic.partitions
        told = {k: str(v[0] if isinstance(v, list) else v) for k, v in kafka["topicConfiguration"].items()}
        assert told == topic.config()
        headers = document["components"]["messages"][name]["headers"]["properties"]
        assert set(topic.headers) <= set(headers)
        several = {"record", "policy"} if name == topics.SUPPRESSIONS else {"record"}
        assert document["channels"][name]["messages"].keys() == several


def test_asyncapi_every_topic_is_written_and_every_group_reads() -> None:
    operations = FILES["asyncapi.json"]["operations"].values()
    sent = {o["channel"]["$ref"].removeprefix("#/channels/") for o in operations if o["action"] == "send"}
    assert sent == set(topics.registry())
    groups = {g for o in operations if "bindings" in o for g in o["bindings"]["kafka"]["groupId"]["enum"]}
    assert groups == {topics.GROUP_CLASSIFY, topics.GROUP_LEDGER, topics.GROUP_LANDER}
