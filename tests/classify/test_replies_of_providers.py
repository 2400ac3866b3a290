"""What receivers say: a table of replies of providers, servers, filters and lists, in many languages."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from mailecho.pipeline.classify.reply import classify_reply
from mailecho.schemas.taxonomy import Cause

TABLE = Path(__file__).parent.parent / "samples" / "replies.tsv"


class Case(NamedTuple):
    """One reply: the cause (and detail) that it has, causes that are as good, the host that gave it."""

    cause: str
    host: str
    text: str
    also: str = ""


CASES = [Case(*line.split("\t")) for line in TABLE.read_text("utf-8").splitlines() if line.strip() and line[0] != "#"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.text[:60])
def test_reply(case: Case) -> None:
    verdict = classify_reply(case.text, host=case.host)
    cause, _, detail = case.cause.partition("/")
    if str(verdict.cause) in case.also.split("|"):
        return
    assert verdict.cause is Cause(cause), verdict
    assert not detail or verdict.detail == detail, verdict
