"""What the classify worker writes is what the generated schema says."""

from __future__ import annotations

import json

from mailecho.pipeline.events import EventBuilder, Origin
from mailecho.pipeline.finding import Finding
from mailecho.pipeline.identity import Identity
from mailecho.pipeline.raw import RawReader
from mailecho.schemas import topics
from mailecho.schemas.command import Add, PolicyChange, Release
from mailecho.schemas.taxonomy import Cause, Kind, Trust
from tests.schemas.test_export import validator


def test_lines_that_classify_writes() -> None:
    line = validator("classified")
    identity = Identity(bytes(32))
    builder = EventBuilder(identity, "rules")
    finding = Finding(Kind.BOUNCE, recipient="a@example.com", cause=Cause.DOMAIN_UNKNOWN, trust=Trust.VERIFIED)
    written = [found.data for found in builder.lines(finding, Origin(topics.RAW_DSN, 0, 1, 1_767_000_000_000), 0, str)]
    for command in (
        Add(id="12345678", address="A@example.com"),
        Release(id="12345678", domain="example.com"),
        PolicyChange(id="12345678", policy={}),
    ):
        value = command.model_dump_json().encode()
        read = RawReader(builder, identity).read(topics.COMMANDS, 0, 1, 1_767_000_000_000, [], value)
        assert read.letters == []
        written += [found.data for found in read.lines]
    assert [next(iter(json.loads(data))) for data in written] == ["row", "copy", "command", "command", "command"]
    for data in written:
        line.validate(json.loads(data))
