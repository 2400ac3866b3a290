"""What the classify worker writes is what the generated schema says."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from mailecho.pipeline.events import EventBuilder, Origin
from mailecho.pipeline.finding import Finding
from mailecho.pipeline.identity import Identity
from mailecho.pipeline.raw import RawReader
from mailecho.schemas import topics
from mailecho.schemas.classified import row_of
from mailecho.schemas.command import Add, PolicyChange, Release
from mailecho.schemas.event import Event
from mailecho.schemas.taxonomy import Cause, Kind, Permanence, Trust
from tests.schemas.rows import dump_row
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


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=80)
FINDINGS = st.builds(
    Finding,
    kind=st.sampled_from(Kind),
    recipient=st.sampled_from(("", "A@Example.com", "no address", "ü@bücher.example")),
    recipient_key=st.sampled_from(("", "01234567-89ab-cdef-0123-456789abcdef")),
    status=st.sampled_from(("", "5.1.1")),
    smtp_code=st.integers(0, 599),
    permanence=st.sampled_from(Permanence),
    cause=st.none() | st.sampled_from(Cause),
    confidence=st.floats(0, 1),
    diagnostic=TEXT | st.just("550 5.1.1 <a@example.com>: no such user"),
    trust=st.sampled_from(Trust),
    incidents=st.integers(0, 10**6),
    attempt=st.integers(0, 65_535),
    queue_seconds=st.floats(0, 1e9),
    size_bytes=st.integers(0, 2**32),
    occurred_at_ms=st.none() | st.sampled_from((1_767_000_000_000, 1_766_999_999_999, 1, 1 << 60)),
    **dict.fromkeys(
        (
            *("action", "cause_detail", "rule_id", "feedback_type", "message_id", "envelope_id", "stage", "source"),
            *("source_host", "remote_host", "remote_ip", "sending_ip", "mail_from", "tenant", "stream", "campaign"),
            *("pool", "recovery", "tls", "occurred_at_raw"),
        ),
        st.just("") | TEXT,
    ),
)


@given(FINDINGS, st.integers(0, 3), st.sampled_from(("", "dsn")))
def test_a_row_is_what_the_model_says(finding: Finding, index: int, source: str) -> None:
    builder = EventBuilder(Identity(bytes(32)), "rules", frozenset(("mx.example.com", "")))
    origin = Origin(topics.RAW_DSN, 0, 1, 1_767_000_000_000, "tenant", "", source)
    written = row_of(builder.lines(finding, origin, index, lambda: "raw")[0].data)
    values = json.loads(Event.model_validate_json(written).model_dump_json())
    assert written == dump_row(values), "all that is no default, in the order of the contract"
