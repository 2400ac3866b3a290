"""A raw message -> what it says happened: the classifier's entry point.

In order: what a machine wrote for machines (DSN, ARF, MDN), complaints in other forms, reports in words by format,
answers to mail, reports in words that no format reads. The first that fits decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter

from mailecho.pipeline.classify import aggregate, arf, complaint, dsn, guess, pec, replies, sns
from mailecho.pipeline.classify.dates import milliseconds
from mailecho.pipeline.classify.formats import FORMATS
from mailecho.pipeline.classify.letter import Letter, enclosed_text
from mailecho.pipeline.classify.reply import Verdict, classify_reply
from mailecho.pipeline.classify.row import Report, Row
from mailecho.pipeline.classify.trace import Asked, Step, Trace
from mailecho.pipeline.classify.trusted import settle_trust
from mailecho.pipeline.finding import Finding, Unreadable
from mailecho.pipeline.message.addresses import find_addresses, unwrapped
from mailecho.pipeline.message.headers import Headers, printable
from mailecho.pipeline.message.scan import Mail, NotAMessage, Part, read_mail, scan
from mailecho.pipeline.stages import stage_for
from mailecho.pipeline.trust.own import Own
from mailecho.schemas.taxonomy import Cause, Kind, Permanence

#: Reports nested in forwarded messages: how deep they are looked for (RFC 6522 allows them inside).
MAX_NESTED = 3

#: Recipients whose stage is looked for in the words of their report: each costs a search.
_MAX_STAGES = 100

#: Below this a diagnostic has told too little, and the report's other words are asked too.
_ENOUGH = 0.7

#: What a later message may not meet: with no code in a report that gave up, these alone are transient.
_MAY_PASS = (Cause.EXPIRED, Cause.NETWORK, Cause.GREYLIST, Cause.RATE_LIMIT, Cause.RECIPIENT_RATE)

#: Fields whose text comes from the message: any bytes may have been in it, and events are UTF-8.
_TEXTS = (
    "recipient",
    "message_id",
    "envelope_id",
    "diagnostic",
    "source_host",
    "remote_host",
    "sending_ip",
    "mail_from",
    "feedback_type",
    "cause_detail",
    "action",
    "occurred_at_raw",
    "last_attempt_raw",
    "rule_id",
)
_texts_of = attrgetter(*_TEXTS)

_KIND_OF_ACTION = {
    "failed": Kind.BOUNCE,
    "delayed": Kind.DELAY,
    "delivered": Kind.DELIVERY,
    "relayed": Kind.DELIVERY,
    "expanded": Kind.DELIVERY,
}


def classify_message(
    raw: bytes, own: Own | None = None, received_ms: int | None = None, *, trace: Trace | None = None
) -> list[Finding]:
    """What one message reports: a finding for each (message, recipient), at least one.

    Takes an RFC 5322 message with any line ends. A message that is no feedback gives one finding of kind
    not_feedback. What is `own` decides trust and gives back recipients that a report hides; `received_ms` (epoch
    milliseconds UTC) is when the message came, by which tokens expire. Raises Unreadable for what cannot be a message
    at all (empty, or binary without a header), and nothing else. `trace` is filled where it is given.
    """
    try:
        mail = read_mail(raw)
    except NotAMessage as error:
        raise Unreadable(str(error), "empty" if "empty" in str(error) else "unreadable") from None
    findings, letter = _read(Letter(mail, trace), 0)
    if own is not None and findings[0].kind is not Kind.NOT_FEEDBACK:
        judged = settle_trust(letter, findings, own, received_ms)
        if trace is not None:
            trace.judged = judged
    for finding in findings:
        texts = _texts_of(finding)
        if not "".join(texts).isascii():
            for name, text in zip(_TEXTS, texts, strict=True):
                setattr(finding, name, printable(text))
    return findings


def _read(letter: Letter, depth: int) -> tuple[list[Finding], Letter]:
    """The findings, and the letter that they are from: the message, or a report that it forwards."""
    for reader in (_delivery_status, _feedback, _receipt, _complaint, _notified, _in_words):
        findings = reader(letter)
        if findings:
            return findings, letter
    if depth < MAX_NESTED:
        for part in letter.mail.parts:
            if part.type in ("message/rfc822", "message/global") and _may_hold_report(part.raw):
                nested = _read_nested(letter, part, depth)
                if nested[0]:
                    if letter.trace is not None:
                        letter.trace.read_as += ", inside a forwarded message"
                    return nested
    for reader in (_answer, _guessed):
        findings = reader(letter)
        if findings:
            return findings, letter
    nothing = Finding(Kind.NOT_FEEDBACK, feedback_type=aggregate.report_type(letter))
    _date(nothing, letter, "")
    return [nothing], letter


def _may_hold_report(text: str) -> bool:
    head = text[:100_000].lower()
    return "message/delivery-status" in head or "message/feedback-report" in head or "message/global-delivery" in head


def _read_nested(outer: Letter, part: Part, depth: int) -> tuple[list[Finding], Letter]:
    letter = Letter(scan(enclosed_text(part)), outer.trace)
    for reader in (_delivery_status, _feedback):
        findings = reader(letter)
        if findings:
            return findings, letter
    findings, letter = _read(letter, depth + 1)
    return (findings, letter) if findings[0].kind is not Kind.NOT_FEEDBACK else ([], letter)


# --- reports for machines -------------------------------------------------------------------------------------


def _delivery_status(letter: Letter) -> list[Finding]:
    report, where = None, "text"
    for part in letter.mail.parts:
        if part.type in dsn.STATUS_TYPES:
            report = dsn.read_status(part)
            if report is not None:
                where = part.type
                break
    if report is None:
        report = _status_in_text(letter.mail)
    if report is None:
        return []
    if replies.from_challenger(letter):
        return _answered(letter, Kind.CHALLENGE)
    _restore(report, letter)
    if report.mail_from:  # Postfix, which says in its words what each reply answered, and not in its fields
        _stages(report, letter)
    _note(letter, "a delivery status (RFC 3464), in its ", where)
    return _findings(letter, report)


def _status_in_text(mail: Mail) -> Report | None:
    """A delivery status in a part of another type, before any returned message."""
    for part in mail.parts:
        if part.returned:
            return None
        if not part.type.startswith(("text/", "message/", "application/octet")):
            continue
        text = part.text()
        if "ecipient:" in text and dsn.is_status(text):
            return dsn.read_fields(dsn.unquoted(text))
    return None


def _restore(report: Report, letter: Letter) -> None:
    """What the machine part lacks and the words have: recipients without an address, diagnostics."""
    blank = [row for row in report.rows if not row.recipient]
    mute = [row for row in report.rows if not row.diagnostic and row.action in ("", "failed", "delayed")]
    if not blank and not mute:
        return
    named = dsn_addresses(letter.headers.all("x-failed-recipients"))
    if blank and len(named) == len(report.rows):
        for row, address in zip(report.rows, named, strict=True):
            if not row.recipient:
                row.recipient, row.found = address, "X-Failed-Recipients"
        blank = []
    told = _word_rows(letter)
    if blank and len(told) == len(blank):
        for row, other in zip(blank, told, strict=True):
            row.recipient, row.found = other.recipient, other.found
    elif len(blank) == len(report.rows) == 1 and len(sent := find_addresses(letter.returned.first("to"), 2)) == 1:
        # the reporter names it in a form of its own (X.400, Notes)
        blank[0].recipient, blank[0].found = sent[0], "To of the returned message"
    for row in mute:
        other_row = next((t for t in told if t.recipient.lower() == row.recipient.lower()), None)
        if other_row is not None:
            row.diagnostic = other_row.diagnostic


def _stages(report: Report, letter: Letter) -> None:
    words = letter.mail.parts[0].text()[:100_000]
    if "in reply to" in words:
        for row in report.rows[:_MAX_STAGES]:
            row.stage = row.stage or stage_for(row.recipient, words)


def dsn_addresses(values: Iterable[str]) -> list[str]:
    """The addresses of fields that list them, separated by commas."""
    found: dict[str, None] = {}
    for value in values:
        for item in value.split(","):
            if address := dsn.recipient_of(item):
                found.setdefault(address)
    return list(found)


def _feedback(letter: Letter) -> list[Finding]:
    letter.told = arf.read(letter)
    if letter.told is None:
        return []
    _note(letter, "a feedback report (ARF, RFC 5965) in its part ", arf.FEEDBACK_TYPE)
    return arf.findings_of(letter, letter.told)


def _receipt(letter: Letter) -> list[Finding]:
    if not replies.is_receipt(letter):
        return []
    _note(letter, "a read receipt (MDN, RFC 8098)")
    finding = Finding(Kind.READ_RECEIPT, confidence=0.95, rule_id="mdn", source="dsn")
    part = next((p for p in letter.mail.parts if p.type == replies.MDN_TYPE), None)
    if part is not None:
        fields = Headers(part.text().strip("\n"))
        finding.recipient = dsn.recipient_of(fields.first("original-recipient") or fields.first("final-recipient"))
        finding.message_id = fields.first("original-message-id").strip("<> ")
        finding.action = fields.first("disposition").rpartition(";")[2].strip().lower()[:60]
    _date(finding, letter, "")
    return [finding]


# --- reports in words -----------------------------------------------------------------------------------------


def _complaint(letter: Letter) -> list[Finding]:
    letter.told = complaint.read(letter)
    if letter.told is None:
        return []
    _note(letter, "a complaint in another form than ARF, with Feedback-Type ", letter.told.feedback_type)
    return arf.findings_of(letter, letter.told)


def _notified(letter: Letter) -> list[Finding]:
    for what, reader in (("an Amazon SES notification in JSON", sns.read), ("a receipt of certified mail", pec.read)):
        report = reader(letter)
        if report is not None:
            _note(letter, what)
            return _findings(letter, report)
    return []


def _word_rows(letter: Letter) -> list[Row]:
    for reader in FORMATS:
        if reader.NAME in letter.marks:
            rows = [row for row in reader.read(letter) if row.recipient]
            if rows:
                _note(letter, "a report in words, of the format ", reader.NAME)
                return rows
    return []


def _in_words(letter: Letter) -> list[Finding]:
    if not letter.reads_like_report:
        return []
    if replies.is_challenge(letter):
        return []
    rows = _word_rows(letter)
    return _findings(letter, Report(rows)) if rows else []


def _answer(letter: Letter) -> list[Finding]:
    kind = replies.reply_kind(letter)
    if kind is None:
        return []
    if kind is Kind.QUARANTINE_NOTICE and replies.filtered(letter):
        return _answered(letter, kind)
    if kind is not Kind.CHALLENGE and not replies.only_absent(letter) and letter.reads_like_report:
        return []
    return _answered(letter, kind)


def _answered(letter: Letter, kind: Kind) -> list[Finding]:
    _note(letter, "an answer to mail, by its headers and subject: ", kind.value)
    finding = Finding(kind, confidence=0.9, rule_id=f"reply.{kind.value}", source="dsn")
    finding.message_id = letter.headers.first("in-reply-to").strip("<> ").split(" ")[0].rstrip(">")
    _date(finding, letter, "")
    return [finding]


def _guessed(letter: Letter) -> list[Finding]:
    if not letter.reads_like_report:
        return []
    rows = guess.guess_rows(letter)
    if not rows and not guess.may_name_nobody(letter):
        return []
    if letter.trace is not None:
        signs = ", ".join(sorted(letter.head | letter.marks)) or "X-Failed-Recipients"
        _note(letter, "a report in words of no known format, by its signs: ", signs)
    return _findings(letter, Report(rows or [Row("", aside=" ".join(letter.text.split())[:4000])]))


def _note(letter: Letter, what: str, which: str = "") -> None:
    """For `explain`: what the message was read as. The last word stands."""
    if letter.trace is not None:
        letter.trace.read_as = what + which


# --- rows to findings -----------------------------------------------------------------------------------------


def _findings(letter: Letter, report: Report) -> list[Finding]:
    findings: list[Finding] = []
    seen: dict[str, Finding] = {}
    whole = ""
    for row in report.rows:
        step = None
        if letter.trace is not None:
            step = Step(row)
            letter.trace.steps.append(step)
        verdict = _verdict(row, row.diagnostic, report, step, "reply")
        # With several recipients the other words may be about another one.
        alone = len(report.rows) == 1 or not row.diagnostic
        if verdict.confidence < _ENOUGH and alone and row.action not in ("delivered", "relayed", "expanded"):
            whole = whole or _words_of(letter)
            verdict = _better(verdict, row, report, whole, step)
        kind, kind_why = _kind(row, verdict, letter)
        finding = Finding(
            kind,
            recipient=unwrapped(row.recipient),
            status=verdict.status,
            smtp_code=verdict.smtp_code,
            action=row.action or ("delayed" if kind is Kind.DELAY else "failed" if kind is Kind.BOUNCE else ""),
            permanence=verdict.permanence,
            cause=verdict.cause,
            cause_detail=verdict.detail,
            confidence=verdict.confidence,
            rule_id=verdict.rule_id,
            message_id=letter.message_id or report.message_id,
            envelope_id=report.envelope_id,
            diagnostic=" ".join((row.diagnostic or row.aside).split())[:4000],
            stage=verdict.stage,
            source="dsn",
            source_host=report.reporter,
            remote_host=row.remote_host,
            mail_from=report.mail_from,
            last_attempt_raw=row.last_attempt or report.arrival,
        )
        settled = _settle(finding, row)
        if step is not None:
            step.kind_why, step.settled = kind_why, settled
        _date(finding, letter, row.last_attempt)
        key = row.recipient.lower()
        if key in seen and seen[key].kind is kind:
            if letter.trace is not None:
                letter.trace.steps.pop()
            continue
        seen[key] = finding
        findings.append(finding)
    return findings


def _words_of(letter: Letter) -> str:
    return " ".join(letter.text.split())[:4000]


def _verdict(row: Row, text: str, report: Report, step: Step | None, where: str) -> Verdict:
    host = row.remote_host or report.reporter
    verdict = classify_reply(text, status=row.status, host=host, stage=row.stage)
    if step is not None:
        step.asked.append(Asked(where, text, row.status, host, row.stage, verdict))
    return verdict


def _better(verdict: Verdict, row: Row, report: Report, whole: str, step: Step | None) -> Verdict:
    """The verdict of the report's other words, where those of the reply told too little."""
    for where, text in (
        ("reply and remarks beside it", f"{row.diagnostic} {row.aside}" if row.aside else ""),
        ("all words of the report", f"{row.diagnostic} {whole}"),
    ):
        if not text.strip():
            continue
        other = _verdict(row, text, report, step, where)
        if other.confidence > verdict.confidence:
            return other
    return verdict


def _kind(row: Row, verdict: Verdict, letter: Letter) -> tuple[Kind, str]:
    """The kind, and why it is that."""
    if row.action:
        return _KIND_OF_ACTION[row.action], "the report's Action says so"
    if verdict.cause is None:
        return Kind.DELIVERY, "the reply reports a success"
    marks = letter.marks
    refused = verdict.smtp_code >= 400 or verdict.status[:1] in ("4", "5")
    if "delivered" in marks and "gave_up" not in marks and not refused:
        return Kind.DELIVERY, "its words report a success"
    if "still_trying" in marks or ("delayed" in marks and "gave_up" not in marks):
        return Kind.DELAY, "its words say that the reporter still tries"
    return Kind.BOUNCE, "it names no action, and nothing in it says that the reporter still tries"


def _settle(finding: Finding, row: Row) -> list[str]:
    """What follows from the kind: a delay has a cause, a delivery has none. Gives what it changed, in words."""
    settled = []
    if finding.kind is Kind.DELIVERY:
        finding.cause, finding.cause_detail, finding.permanence = None, "", Permanence.UNKNOWN
    elif finding.cause is None:
        finding.cause = Cause.UNDETERMINED
    if finding.kind is Kind.DELAY:
        if finding.permanence is not Permanence.TRANSIENT:
            settled.append("transient: the reporter still tries, whatever the class of the code")
        finding.permanence = Permanence.TRANSIENT
        if finding.cause is Cause.UNDETERMINED or finding.confidence < 0.5:
            finding.cause, finding.rule_id, finding.confidence = Cause.EXPIRED, "kind.delay", 0.6
            settled.append("expired: a delay of which nothing better is known")
    elif finding.kind is Kind.BOUNCE and (
        finding.permanence is Permanence.UNKNOWN
        or (finding.cause not in _MAY_PASS and not finding.smtp_code and not finding.status)
    ):
        if finding.permanence is not Permanence.PERMANENT:
            settled.append("permanent: the reporter gave up, and no code says otherwise")
        finding.permanence = Permanence.PERMANENT
    return settled


def _date(finding: Finding, letter: Letter, value: str) -> None:
    value = value or letter.headers.first("date")
    finding.occurred_at_ms = milliseconds(value)
    finding.occurred_at_raw = value[:200]
