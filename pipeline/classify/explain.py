"""Why the classifier says what it says: for each finding its evidence, what it overruled, and the reasons in words.

Nothing is decided here: verdicts come from classify_reply and classify_message, evidence from `weigh`, which they use.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from textwrap import shorten

from mailecho.pipeline.classify.codes import joined
from mailecho.pipeline.classify.reply import (
    CODE_SOURCES,
    MAX_DIAGNOSTIC,
    NO_PHRASE,
    Evidence,
    Verdict,
    Weighed,
    classify_reply,
    deciding_code,
    weigh,
)
from mailecho.pipeline.classify.report import classify_message
from mailecho.pipeline.classify.ruleset import Rule, ruleset
from mailecho.pipeline.classify.spans import phrase_span
from mailecho.pipeline.classify.trace import Asked, Step, Trace
from mailecho.pipeline.classify.wording import advice, meaning_of, recipient_from, summary, trust_why, whom
from mailecho.pipeline.finding import Finding
from mailecho.pipeline.trust.own import Own
from mailecho.schemas.taxonomy import ADVICE_OF, FAULT_OF, Kind, Trust

#: Codes of less weight than this are overloaded: receivers give them for anything (rules/status.toml).
_OVERLOADED = 25


@dataclass(frozen=True, slots=True)
class Witness:
    """One piece of evidence.

    `source` is phrase, code in the reply, Status field or reply code; `matched` the words or the code, `span` where
    they stand in the reply's text, None where not in it. `role` is decided, agrees, overruled or out_of_scope.
    """

    role: str
    source: str
    matched: str
    span: tuple[int, int] | None
    weight: int
    rule_id: str
    rule_file: str
    pattern: str
    cause: str
    detail: str
    confidence: float
    why: str


@dataclass(frozen=True, slots=True)
class ReplyExplained:
    """A reply's verdict with all its evidence, the deciding one first. `notes` say what gave way to what, and why."""

    summary: str
    advice: str
    text: str
    read: str
    cause: str
    detail: str
    fault: str
    permanence: str
    permanence_why: str
    smtp_code: int
    status: str
    stage: str
    host: str
    host_families: tuple[str, ...]
    confidence: float
    rule_id: str
    evidence: tuple[Witness, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FindingExplained:
    """A finding of a message with its reasons. `replies` are the texts asked, the deciding one first; a complaint and
    an answer have none.
    """

    summary: str
    advice: str
    whom: str
    kind: str
    kind_why: str
    recipient: str
    recipient_key: str
    recipient_from: str
    action: str
    status: str
    smtp_code: int
    cause: str
    cause_detail: str
    fault: str
    permanence: str
    confidence: float
    rule_id: str
    trust: str
    trust_why: str
    feedback_type: str
    message_id: str
    envelope_id: str
    reporting_mta: str
    remote_mta: str
    replies: tuple[ReplyExplained, ...]
    notes: tuple[str, ...]


def explain_reply(
    diagnostic: str,
    *,
    smtp_code: int = 0,
    status: str = "",
    host: str = "",
    stage: str = "",
    source: str = "",
) -> ReplyExplained:
    """classify_reply's verdict with its reasons; takes what it takes. Never raises."""
    verdict = classify_reply(diagnostic, smtp_code=smtp_code, status=status, host=host, stage=stage, source=source)
    return _reply(Asked("reply", diagnostic, status, host, stage, verdict), smtp_code)


def explain_message(raw: bytes, own: Own | None = None, received_ms: int | None = None) -> tuple[FindingExplained, ...]:
    """classify_message's findings with their reasons; takes what it takes, raises Unreadable as it does."""
    trace = Trace()
    findings = classify_message(raw, own, received_ms, trace=trace)
    steps: list[Step | None] = [*trace.steps] if len(trace.steps) == len(findings) else [None] * len(findings)
    return tuple(_finding(f, step, trace, own) for f, step in zip(findings, steps, strict=True))


def explain_entry(finding: Finding) -> FindingExplained:
    """A log adapter's finding with its reasons: its reply is judged as the adapter judged it."""
    reply = explain_reply(
        finding.diagnostic,
        smtp_code=finding.smtp_code,
        status=finding.status,
        host=finding.remote_host,
        stage=finding.stage,
        source=finding.source,
    )
    explained = _finding(finding, None, Trace(f"an entry of a log, source {finding.source}"), None)
    return replace(
        explained,
        recipient_from="the log",
        trust_why="our own log or a signed webhook" if finding.trust is Trust.VERIFIED else explained.trust_why,
        replies=(reply,) if finding.cause else (),
    )


# --- a finding ------------------------------------------------------------------------------------------------


def _finding(f: Finding, step: Step | None, trace: Trace, own: Own | None) -> FindingExplained:
    replies: list[ReplyExplained] = []
    notes: list[str] = []
    if step is not None:
        # the text that decided is the first of the greatest confidence: a later one must tell more
        decided = max(step.asked, key=lambda asked: asked.verdict.confidence)
        replies = [_reply(decided, 0), *(_reply(asked, 0) for asked in step.asked if asked is not decided)]
        if decided is not step.asked[0]:
            told = step.asked[0].verdict
            notes.append(
                f"the reply alone told too little ({told.cause or 'nothing'}, confidence {told.confidence:.2f}), "
                f"so the {decided.where} decided"
            )
        notes += step.settled
    why = "no report, no complaint and no automatic answer was recognised in it"
    if trace.read_as:
        why = f"read as {trace.read_as}"
    if step is not None and step.kind_why:
        why += f"; {step.kind_why}"
    if f.kind is Kind.BACKSCATTER:
        why += "; but it claims to be about mail of ours, and it is provably not"
    by_what = replies[0].summary.partition(". ")[2] if replies and replies[0].rule_id == f.rule_id else ""
    return FindingExplained(
        summary=summary(f, by_what),
        advice=advice(f),
        whom=whom(f),
        kind=f.kind.value,
        kind_why=why,
        recipient=f.recipient,
        recipient_key=f.recipient_key,
        recipient_from=recipient_from(f, step),
        action=f.action,
        status=f.status,
        smtp_code=f.smtp_code,
        cause=f.cause.value if f.cause else "",
        cause_detail=f.cause_detail,
        fault=FAULT_OF[f.cause].value if f.cause else "",
        permanence=f.permanence.value,
        confidence=f.confidence,
        rule_id=f.rule_id,
        trust=f.trust.value,
        trust_why=trust_why(f, own, trace.judged),
        feedback_type=f.feedback_type,
        message_id=f.message_id,
        envelope_id=f.envelope_id,
        reporting_mta=f.source_host,
        remote_mta=f.remote_host,
        replies=tuple(replies),
        notes=tuple(notes),
    )


def _reply_summary(verdict: Verdict, witnesses: tuple[Witness, ...]) -> str:
    if verdict.cause is None:
        return "The reply reports a success."
    words = meaning_of(verdict.cause, verdict.detail)
    by = {role: [w for w in witnesses if w.role == role] for role in ("decided", "agrees", "overruled")}
    told = f"{words[0].upper()}{words[1:]}."
    if not by["decided"]:
        return told
    decided = by["decided"][0]
    told += f" {_saying(decided)} decides"
    if by["agrees"]:
        # that a code agrees with a phrase tells more than that another phrase does
        other = next(
            (w for w in by["agrees"] if (w.source == "phrase") != (decided.source == "phrase")), by["agrees"][0]
        )
        told += f", and {_saying(other, first=False)} agrees"
    if by["overruled"]:
        other = by["overruled"][0]
        told += f"; {_saying(other, first=False)} would say {other.cause}, and gives way"
    return told + "."


def _saying(w: Witness, *, first: bool = True) -> str:
    if w.source == "phrase":
        return f"{'The' if first else 'the'} phrase “{shorten(w.matched, 80, placeholder='…')}”"
    return f"{'The' if first else 'the'} {w.source} {w.matched}"


# --- a reply --------------------------------------------------------------------------------------------------


def _reply(asked: Asked, smtp_code: int) -> ReplyExplained:
    verdict = asked.verdict
    text = joined(asked.text[:MAX_DIAGNOSTIC])
    weighed = weigh(text, smtp_code, asked.status, asked.host, asked.stage)
    witnesses = () if verdict.cause is None else _witnesses(text, weighed, asked)
    code = deciding_code(weighed.smtp_code, weighed.inner, asked.status)
    if verdict.cause is None:
        why = "a success has none"
    elif code[:1] in ("4", "5"):
        why = f"class {code[:1]} of {code}"
    else:
        why = "no code; what the cause says" if weighed.evidence else "no code and no cause"
    return ReplyExplained(
        summary=_reply_summary(verdict, witnesses),
        advice=ADVICE_OF[verdict.cause] if verdict.cause else "",
        text=text,
        read=asked.where,
        cause=verdict.cause.value if verdict.cause else "",
        detail=verdict.detail,
        fault=FAULT_OF[verdict.cause].value if verdict.cause else "",
        permanence=verdict.permanence.value,
        permanence_why=why,
        smtp_code=verdict.smtp_code,
        status=verdict.status,
        stage=verdict.stage,
        host=asked.host,
        host_families=tuple(sorted(weighed.families)),
        confidence=verdict.confidence,
        rule_id=verdict.rule_id,
        evidence=witnesses,
        notes=tuple(_notes(weighed, asked, verdict)),
    )


def _witnesses(text: str, weighed: Weighed, asked: Asked) -> tuple[Witness, ...]:
    best = weighed.evidence[0] if weighed.evidence else None
    outside = [e for e in weighed.scoped if e not in weighed.evidence]
    found: dict[tuple[str, str], Witness] = {}
    for evidence in [*weighed.evidence, *outside]:
        witness = _witness(evidence, best, evidence in outside, text, weighed, asked)
        first = found.setdefault((witness.source, witness.rule_id), witness)
        if first is not witness and first.span and witness.span and _meet(first.span, witness.span):
            start, end = min(first.span[0], witness.span[0]), max(first.span[1], witness.span[1])
            found[first.source, first.rule_id] = replace(first, span=(start, end), matched=text[start:end])
    return tuple(found.values())


def _meet(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]


def _witness(
    evidence: Evidence, best: Evidence | None, outside: bool, text: str, weighed: Weighed, asked: Asked
) -> Witness:
    rule = evidence.rule
    pattern, matched = "", ""
    if evidence.end == NO_PHRASE:
        values = (weighed.inner, asked.status, str(weighed.smtp_code))
        matched = values[CODE_SOURCES.index(evidence.source)]
        at = -1 if evidence.source == "Status field" else text.find(matched)
        span = (at, at + len(matched)) if at >= 0 else None
    else:
        pattern = ruleset().patterns[evidence.order]
        span = phrase_span(text, pattern, evidence.end)
        matched = text[span[0] : span[1]] if span else asked.host
    role = "out_of_scope" if outside else "overruled"
    if evidence is best:
        role = "decided"
    elif best is not None and not outside and rule.cause is best.rule.cause:
        role = "agrees"
    return Witness(
        role=role,
        source=evidence.source,
        matched=matched,
        span=span,
        weight=evidence.weight,
        rule_id=rule.id,
        rule_file=f"rules/{rule.file}",
        pattern=pattern,
        cause=rule.cause.value,
        detail=rule.detail,
        confidence=rule.confidence,
        why=_why(evidence, role, best),
    )


def _why(evidence: Evidence, role: str, best: Evidence | None) -> str:
    if role == "out_of_scope":
        return f"holds only {_scope(evidence.rule)}"
    if role != "overruled" or best is None:
        return ""
    if evidence.weight == best.weight:
        return f"as heavy as {best.rule.id}, which stands earlier in the text"
    if evidence.end == NO_PHRASE and evidence.weight < _OVERLOADED:
        return f"an overloaded code (weight {evidence.weight}): it counts where nothing better speaks"
    return f"weight {evidence.weight} against {best.weight}"


def _scope(rule: Rule) -> str:
    parts = []
    if rule.hosts:
        parts.append(f"at hosts of {', '.join(sorted(rule.hosts))}")
    if rule.stages:
        parts.append(f"at the stage {', '.join(sorted(rule.stages))}")
    if rule.classes:
        parts.append(f"beside a code of class {' or '.join(rule.classes)}")
    if rule.unless_status:
        parts.append(f"without {', '.join(sorted(rule.unless_status))}")
    return " and ".join(parts)


def _notes(weighed: Weighed, asked: Asked, verdict: Verdict) -> list[str]:
    if verdict.cause is None:
        return ["the reply reports a success, so nothing is asked for a cause"]
    if not weighed.evidence:
        return ["no phrase of any rule occurs in it, and no code that means something"]
    notes = []
    best, rules = weighed.evidence[0], ruleset()
    decided = f"the {best.source} decided" if best.end == NO_PHRASE else f"the phrase of {best.rule.id} decided"
    for name, code in (("Status", asked.status), ("the code", weighed.inner if weighed.inner != asked.status else "")):
        if code.endswith(".0.0"):
            notes.append(f"{name} {code} says nothing but its class and gave way: {decided}")
    if asked.status and weighed.inner and verdict.status == weighed.inner != asked.status:
        notes.append(f"Status {asked.status} gave way to {weighed.inner}, which stands in the reply itself")
    for evidence in weighed.evidence:
        if evidence.end == NO_PHRASE and evidence.rule.hosts and evidence.source != "reply code":
            code = weighed.inner if evidence.source == CODE_SOURCES[0] else asked.status
            notes.append(_at_host(code, evidence.rule, rules.of_status(code, set())))
    if weighed.smtp_code and weighed.inner and weighed.inner[0] != str(weighed.smtp_code)[0]:
        notes.append(f"reply code {weighed.smtp_code} and {weighed.inner} disagree: the enhanced code says the class")
    if best.rule.confidence < verdict.confidence:
        notes.append(f"phrase and code agree, which raises the confidence from {best.rule.confidence:.2f}")
    return notes


def _at_host(code: str, rule: Rule, usual: Rule | None) -> str:
    host = " and ".join(sorted(rule.hosts))
    registry = f"; elsewhere it means {_meaning(usual)}" if usual is not None else ""
    return f"X{code[1:]} at {host} means {_meaning(rule)}{registry}"


def _meaning(rule: Rule) -> str:
    return f"{rule.cause.value} ({rule.detail})" if rule.detail else rule.cause.value
