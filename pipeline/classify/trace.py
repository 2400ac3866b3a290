"""What the classifier notes of its way to a finding, where somebody asks (`explain.py`).

A Letter that carries a Trace has it filled by the code that decides; without one nothing is noted.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from mailecho.pipeline.classify.reply import Verdict
from mailecho.pipeline.classify.row import Row
from mailecho.pipeline.trust.judge import Judged


@dataclass(slots=True)
class Asked:
    """A text that was asked for its cause, and with what: `where` says what text of the report it is."""

    where: str
    text: str
    status: str
    host: str
    stage: str
    verdict: Verdict


@dataclass(slots=True)
class Step:
    """How one row of a report became a finding."""

    row: Row
    asked: list[Asked] = field(default_factory=list)
    kind_why: str = ""
    settled: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Trace:
    """What a message was read as. `steps` go with the findings one by one; a complaint or an answer has none.

    `judged` is what was held against the trust of the report, None where nothing was known to be ours.
    """

    read_as: str = ""
    judged: Judged | None = None
    steps: list[Step] = field(default_factory=list)
