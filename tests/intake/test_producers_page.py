"""docs/producers.md says what is true: its table is the contract, its snippets run."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mailecho.pipeline.config import KafkaSettings, Settings
from mailecho.pipeline.finding import Finding
from mailecho.pipeline.identity import Identity
from mailecho.pipeline.intake import Tags, file_records, produce
from mailecho.pipeline.sources import SOURCES, read_delivery
from mailecho.pipeline.sources.mailecho import DeliveryEntry
from mailecho.pipeline.topics import apply_topics
from mailecho.pipeline.trust import Keyring, verify_token
from mailecho.schemas.deadletter import Reason
from mailecho.schemas.topics import RAW, RAW_DELIVERY, registry
from tests.fixtures_kafka import KafkaProcess
from tests.intake.test_producer import read_all

PAGE = Path(__file__).parents[2] / "docs" / "producers.md"
TEXT = PAGE.read_text()
#: A producer, and tokens.
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.S)


def field_table() -> str:
    """The table of fields, from the contract's JSON Schema."""
    schema = DeliveryEntry.model_json_schema()
    rows = ["| Field | Type | Meaning |", "|---|---|---|"]
    for name, field in schema["properties"].items():
        branches = [b for b in field.get("anyOf", [field]) if b.get("type") != "null"]
        required = "**needed**. " if name in schema["required"] else ""
        what = required + field.get("description", "")
        rows.append(f"| `{name}` | {', '.join(map(_type, branches))} | {what.strip()} |")
    return "\n".join(rows)


def _type(branch: dict[str, Any]) -> str:
    if "enum" in branch:
        return "one of " + " ".join(f"`{value}`" for value in branch["enum"] if value)
    if branch["type"] == "string":
        return f"text, up to {branch['maxLength']:,}" if "maxLength" in branch else "text"
    kind = {"integer": "whole number", "number": "number"}[branch["type"]]
    if "maximum" in branch:
        return f"{kind}, {branch['minimum']:,.0f} to {branch['maximum']:,.0f}"
    return kind


def test_the_table_of_fields_is_the_contract() -> None:
    assert field_table() in TEXT, f"put this into {PAGE.name}:\n{field_table()}"


def test_names_are_those_of_the_registries() -> None:
    for name in (*RAW, *SOURCES, *registry()[RAW_DELIVERY].headers):
        assert f"`{name}`" in TEXT
    named = set(re.findall(r"^\| `(\w+)` \|", TEXT.partition("## What cannot be read")[2].partition("\n## ")[0], re.M))
    assert named - {"reason"} <= set(Reason)


def test_the_example_is_read() -> None:
    (example,) = re.findall(r"```json\n(.*?)```", TEXT, re.S)
    (found,) = read_delivery(example.encode(), source="", received_at_ms=1_769_860_800_000)
    assert isinstance(found, Finding)
    assert found.recipient == json.loads(example)["recipient"]


@pytest.mark.kafka
def test_the_snippets_reach_the_topic(fresh_kafka: KafkaProcess, tmp_path: Path) -> None:
    bootstrap = fresh_kafka.bootstrap
    asyncio.run(apply_topics(bootstrap, Settings(kafka=KafkaSettings(partitions=1))))
    snippet, _ = SNIPPETS
    file = tmp_path / "snippet.py"
    file.write_text(snippet.replace("127.0.0.1:9092", bootstrap))
    subprocess.run([sys.executable, file], check=True)
    # what the console snippet sends: headers, a tab, the value
    (value,) = re.findall(r"printf 'source:mailecho,tenant:acme\\t(.*?)\\n'", TEXT)
    (tmp_path / "event.jsonl").write_text(value + "\n")
    asyncio.run(produce(bootstrap, file_records([tmp_path / "event.jsonl"], Tags("mailecho", "acme"))))
    records = asyncio.run(read_all(bootstrap, RAW_DELIVERY))
    assert len(records) == 2
    found = []
    for record in records:
        headers = {name: value.decode() for name, value in record.headers}
        assert headers["tenant"] == "acme"
        found += read_delivery(record.value, source=headers["source"], received_at_ms=record.timestamp)
    first, second = found
    assert isinstance(first, Finding)
    assert isinstance(second, Finding)
    assert first.identity == second.identity


def test_the_snippet_of_tokens_makes_one_that_verifies() -> None:
    names: dict[str, Any] = {"token_key_hex": "00" * 32, "identity_key_hex": "11" * 32}
    exec(SNIPPETS[1], names)
    token = verify_token(Keyring.parse(["1:" + "00" * 32]), names["token"])
    key = Identity(b"\x11" * 32).recipient_key("user@example.com")
    assert (token.message, token.tenant, token.recipient_key) == ("5f3a09", "acme", key)
