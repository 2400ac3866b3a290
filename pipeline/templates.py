"""The replies that no rule knows, from ClickHouse: the most frequent templates, each with a draft of its rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mailecho.pipeline.classify.draft import Draft, draft_rule
from mailecho.schemas.taxonomy import Cause, Kind

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

_SQL = """
SELECT template, count() AS n, uniq(recipient_key) AS recipients,
       arraySort(groupUniqArrayIf(12)(provider, provider != '')) AS providers,
       arraySort(groupUniqArrayIf(12)(status, status != '')) AS statuses,
       argMin(diagnostic, event_id) AS example, avg(confidence) AS sureness,
       min(received_at) AS first, max(received_at) AS last
FROM events
WHERE received_at >= now() - toIntervalDay({days:UInt32}) AND template != '' AND kind IN ({kinds:Array(String)})
  AND (cause = {unknown:String} OR rule_id = 'kind.delay' OR confidence < {below:Float64})
GROUP BY template
ORDER BY n DESC, template
LIMIT {limit:UInt32}
"""
_KINDS = [Kind.BOUNCE.value, Kind.DELAY.value, Kind.EXPIRY.value, Kind.REJECTION.value]


@dataclass(frozen=True, slots=True)
class Unknown:
    """A template of replies whose cause is not known, or hardly. Times are UTC text; `example` has addresses masked."""

    template: str
    count: int
    recipients: int
    providers: list[str]
    statuses: list[str]
    example: str
    confidence: float
    first: str
    last: str
    draft: Draft | None


def unknown_templates(client: Client, days: int, limit: int, below: float) -> list[Unknown]:
    """The most frequent templates of the last days whose cause is undetermined or less sure than `below` (0 to 1).

    Delays of which no more is known than that they are (rule kind.delay) are among them.
    """
    parameters = {
        "days": days,
        "kinds": _KINDS,
        "unknown": Cause.UNDETERMINED.value,
        "below": below,
        "limit": limit,
    }
    rows = client.query(_SQL, parameters=parameters).result_rows
    return [
        Unknown(
            template=template,
            count=count,
            recipients=recipients,
            providers=list(providers),
            statuses=list(statuses),
            example=example,
            confidence=round(confidence, 2),
            first=f"{first:%Y-%m-%d %H:%M:%S}",
            last=f"{last:%Y-%m-%d %H:%M:%S}",
            draft=draft_rule(example),
        )
        for template, count, recipients, providers, statuses, example, confidence, first, last in rows
    ]
