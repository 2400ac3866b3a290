"""What a server's reply says: its text and codes -> one cause, with the evidence that decided.

All that speaks for a cause is evidence with a weight: a rule whose phrase occurs, the enhanced code inside the
text, the Status field, the reply code. The greatest weight wins, so a telling phrase beats the overloaded
codes (X.7.1 and the like) and a precise code beats a vague phrase; see rules/status.toml.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import NamedTuple

from mailecho.pipeline.classify.codes import codes_in, joined
from mailecho.pipeline.classify.listed import listed
from mailecho.pipeline.classify.ruleset import Rule, RuleSet, rules_version, ruleset
from mailecho.pipeline.message.addresses import ADDRESS
from mailecho.schemas.taxonomy import Cause, Permanence

RULES_VERSION: str = rules_version()

#: What is read of one diagnostic. Replies are limited to 512 octets a line; worst case the end of a page is not read.
MAX_DIAGNOSTIC = 4000

#: A Status field is a rewording by the reporter: it counts less than the same code in the reply.
_FIELD_PENALTY = 4

#: Without a code, what the cause says.
_TRANSIENT = frozenset(
    (
        Cause.MAILBOX_FULL,
        Cause.RECIPIENT_RATE,
        Cause.RATE_LIMIT,
        Cause.GREYLIST,
        Cause.NETWORK,
        Cause.EXPIRED,
        Cause.SYSTEM_ERROR,
        Cause.SYSTEM_FULL,
    )
)

_ACCEPTED = re.compile(r"\s*(2\d\d)(?=$|[ -])[ -]?(2\.\d\.\d{1,3})?")
#: An address with what encloses it: one "@" to the rules.
QUOTED_ADDRESS = re.compile(rf"[<\"'(\[]{{0,2}}(?:mailto:)?{ADDRESS.pattern}[>\"')\]]{{0,2}}")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one reply means.

    `cause` is None where the reply reports a success. `status` and `smtp_code` are those of the text, else those
    given. `rule_id` names what decided; `confidence` (0 to 1) how often that is right.
    """

    cause: Cause | None
    detail: str
    permanence: Permanence
    status: str
    smtp_code: int
    stage: str
    confidence: float
    rule_id: str


class Evidence(NamedTuple):
    """One thing that speaks for a cause; the smallest tuple decides.

    `rank` is the weight, negated; `end` the byte at which its phrase ends in the normalised text, NO_PHRASE for a
    code; `order` the index of the pattern, of a code its place in CODE_SOURCES.
    """

    rank: int
    end: int
    order: int
    rule: Rule

    @property
    def weight(self) -> int:
        """How much it counts, 0 to 100."""
        return -self.rank

    @property
    def source(self) -> str:
        """`phrase`, or one of CODE_SOURCES."""
        return CODE_SOURCES[self.order] if self.end == NO_PHRASE else "phrase"


CODE_SOURCES = ("code in the reply", "Status field", "reply code")
NO_PHRASE = 1 << 30
_order = itemgetter(0, 1, 2)


class Weighed(NamedTuple):
    """A reply's evidence, the deciding one first, and what it was gathered with.

    `scoped` are the phrases whose rules have a scope: those not in `evidence` were out of it. `inner` is the enhanced
    code in the text, `families` the host families that text and host belong to.
    """

    evidence: list[Evidence]
    scoped: list[Evidence]
    smtp_code: int
    inner: str
    stage: str
    families: set[str]


def normalised(text: str) -> str:
    """Text as rules see it: case-folded, white space collapsed, addresses as "@", plain apostrophes."""
    words = text.casefold().split()
    if "@" in text:  # no address has white space in it
        words = [QUOTED_ADDRESS.sub("@", word) if "@" in word else word for word in words]
    text = " ".join(words)
    if not text.isascii():
        text = text.replace("\u2019", "'").replace("\u2018", "'")
    return text


def classify_reply(
    diagnostic: str,
    *,
    smtp_code: int = 0,
    status: str = "",
    host: str = "",
    stage: str = "",
    source: str = "",
) -> Verdict:
    """The cause that a reply gives.

    Takes the reply's text as it came (several lines may be joined or not), the codes where they are known beside
    it (`status` is a DSN's Status field or a log's dsn=), the host that replied, and the stage (connect, helo, mail,
    rcpt, data, end_of_data) where known. Never raises; without any evidence the cause is `undetermined`.
    """
    if smtp_code // 100 == 2 or (not smtp_code and (status[:1] == "2" or _ACCEPTED.match(diagnostic))):
        accepted = _ACCEPTED.match(diagnostic)  # most log lines are such: they cost nothing more
        if accepted:
            smtp_code, status = smtp_code or int(accepted[1]), status or accepted[2] or ""
        return _success(status, smtp_code, stage)
    return _classify(diagnostic[:MAX_DIAGNOSTIC], smtp_code, status, host, stage)


def gather(diagnostic: str, *, smtp_code: int = 0, status: str = "", host: str = "", stage: str = "") -> list[Evidence]:
    """All evidence of a reply, the deciding one first."""
    return weigh(joined(diagnostic[:MAX_DIAGNOSTIC]), smtp_code, status, host, stage).evidence


@lru_cache(maxsize=1024)
def _success(status: str, smtp_code: int, stage: str) -> Verdict:
    return Verdict(None, "", Permanence.UNKNOWN, status, smtp_code, stage, 0.9, "")


@lru_cache(maxsize=4096)
def _classify(diagnostic: str, smtp_code: int, status: str, host: str, stage: str) -> Verdict:
    text = joined(diagnostic)
    evidence, _, code, inner, stage, _ = weigh(text, smtp_code, status, host, stage)
    kind = deciding_code(code, inner, status)[:1]
    shown = inner if inner and (inner[1:] != ".0.0" or not status) else status
    if not evidence:
        return Verdict(Cause.UNDETERMINED, "", _permanence(kind, None), shown, code, stage, 0.0, "")
    best, rule = evidence[0], evidence[0].rule
    confidence = rule.confidence
    for other in evidence:
        if other.rule.cause is rule.cause and (other.end == NO_PHRASE) != (best.end == NO_PHRASE):
            confidence = min(0.99, confidence + 0.03)  # text and code agree
            break
    return Verdict(
        rule.cause,
        rule.detail if rule.cause is not Cause.BLOCKLIST else listed(rule.detail, text),
        _permanence(kind, rule.cause),
        shown,
        code,
        stage,
        round(confidence, 2),
        rule.id,
    )


def deciding_code(smtp_code: int, inner: str, status: str) -> str:
    """The code whose class says the permanence: that in the text, the Status unless x.0.0, the reply code."""
    return inner or (status if status[1:] != ".0.0" else "") or (str(smtp_code) if smtp_code else status)


def weigh(
    text: str, smtp_code: int = 0, status: str = "", host: str = "", stage: str = "", rules: RuleSet | None = None
) -> Weighed:
    """All evidence of a reply whose lines are joined; the arguments are those of classify_reply."""
    code, inner = codes_in(text)
    code = smtp_code or code
    rules = rules or ruleset()
    data = normalised(text)
    matches = rules.automaton.matches((f"{data}\n{host.casefold()}" if host else data).encode("utf-8", "replace"))
    families: set[str] = set()
    evidence: list[Evidence] = []
    scoped: list[Evidence] = []
    for index, end in matches:
        owner = rules.owner[index]
        if owner.__class__ is Rule:
            found = Evidence(-owner.weight, end, index, owner)
            (scoped if owner.scoped else evidence).append(found)
        elif owner[0] == "host":
            families.add(owner[1])
        elif not stage or stage == "data":
            stage = owner[1]
    if scoped:
        code_class = (inner or status)[:1] or (str(code)[0] if code else "")
        evidence += [e for e in scoped if e.rule.applies(families, stage, code_class, (inner, status))]
    if inner and (rule := rules.of_status(inner, families)):
        evidence.append(Evidence(-rule.weight, NO_PHRASE, 0, rule))
    if status and status != inner and (rule := rules.of_status(status, families)):
        evidence.append(Evidence(_FIELD_PENALTY - rule.weight, NO_PHRASE, 1, rule))
    if code and (rule := rules.of_reply(code, stage)):
        evidence.append(Evidence(-rule.weight, NO_PHRASE, 2, rule))
    evidence.sort(key=_order)
    return Weighed(evidence, scoped, code, inner, stage, families)


def _permanence(code_class: str, cause: Cause | None) -> Permanence:
    if code_class == "5":
        return Permanence.PERMANENT
    if code_class == "4":
        return Permanence.TRANSIENT
    if cause is None or cause is Cause.UNDETERMINED:
        return Permanence.UNKNOWN
    return Permanence.TRANSIENT if cause in _TRANSIENT else Permanence.PERMANENT
