"""The cause of a failure that a log reports, by the rules that all replies are judged by."""

from __future__ import annotations

from mailecho.pipeline.classify.reply import classify_reply
from mailecho.pipeline.finding import Finding
from mailecho.schemas.taxonomy import Kind

#: Kinds that have a cause. The others are no failures.
FAILURES = frozenset((Kind.BOUNCE, Kind.DELAY, Kind.EXPIRY, Kind.REJECTION))


def judge(finding: Finding) -> None:
    """Fill in cause, permanence, confidence and rule of a failure, and codes that its text alone has.

    Changes `finding`; a finding that is no failure stays as it is.
    """
    if finding.kind not in FAILURES:
        return
    verdict = classify_reply(
        finding.diagnostic,
        smtp_code=finding.smtp_code,
        status=finding.status,
        host=finding.remote_host,
        stage=finding.stage,
        source=finding.source,
    )
    finding.cause = verdict.cause
    finding.cause_detail = verdict.detail
    finding.permanence = verdict.permanence
    finding.confidence = verdict.confidence
    finding.rule_id = verdict.rule_id
    finding.status = verdict.status or finding.status
    finding.smtp_code = verdict.smtp_code or finding.smtp_code
    finding.stage = verdict.stage or finding.stage
