"""What explain.py says in words: summaries, where a recipient is from, why a report is trusted, what to do next."""

from __future__ import annotations

from mailecho.pipeline.classify.trace import Step
from mailecho.pipeline.finding import CAMPAIGN_ONLY, NOBODY, Finding
from mailecho.pipeline.trust.judge import Judged
from mailecho.pipeline.trust.own import Own
from mailecho.schemas.taxonomy import ADVICE_OF, MEANING_OF, Cause, Kind, Trust

_MEANING_OF_KIND = {
    Kind.COMPLAINT: "a complaint: the recipient called the message unwanted",
    Kind.NOT_SPAM: "the recipient said that the message is no spam",
    Kind.UNSUBSCRIBE: "the recipient wants no more of it",
    Kind.AUTH_REPORT: "a report on authentication: nobody complained, nothing bounced",
    Kind.AUTO_REPLY: "an automatic answer, such as an absence note: the mail arrived",
    Kind.CHALLENGE: "a filter asks the sender to prove who writes: nothing has failed",
    Kind.READ_RECEIPT: "a read receipt: the mail arrived",
    Kind.QUARANTINE_NOTICE: "the message is held in quarantine",
    Kind.BACKSCATTER: "a bounce of mail that is not ours: somebody used our name",
    Kind.DELIVERY: "the message was delivered or passed on",
    Kind.NOT_FEEDBACK: "no feedback about mail that was sent",
}


#: What an expert would do about what is no failure.
_ADVICE_OF_KIND = {
    Kind.COMPLAINT: "Stop mailing this recipient in this stream, and look at how the address came onto the list.",
    Kind.NOT_SPAM: "Nothing: it is praise, and no reason to mail more.",
    Kind.UNSUBSCRIBE: "Take the address off the list at once.",
    Kind.AUTH_REPORT: "Look at which of your systems, or whose, sends without a valid SPF, DKIM or DMARC.",
    Kind.AUTO_REPLY: "Nothing: the mail arrived, and a person reads it later.",
    Kind.CHALLENGE: "Nothing, or answer it by hand: an automatic answer would confirm forged mail too.",
    Kind.READ_RECEIPT: "Nothing: the mail arrived.",
    Kind.QUARANTINE_NOTICE: "Find out what the filter disliked; the recipient may never see the message.",
    Kind.BACKSCATTER: "Nothing about the recipient; a strict DMARC policy makes forging your name harder.",
}
_HIDDEN = "Nobody can be suppressed: with tokens in your mail (`mailecho token --help`) complaints tell whom."


def advice(finding: Finding) -> str:
    """What to do about it, "" where nothing is to be done."""
    f = finding
    if f.cause is None or f.kind is Kind.BACKSCATTER:
        return _HIDDEN if f.recovery in NOBODY else _ADVICE_OF_KIND.get(f.kind, "")
    return ADVICE_OF[f.cause]


def whom(finding: Finding) -> str:
    """The recipient as it can be named: its address, its key where only a token tells it, "" where nobody can tell."""
    if finding.recovery in NOBODY:
        return ""
    return f"key {finding.recipient_key}" if finding.recipient_key else finding.recipient


def summary(finding: Finding, told: str) -> str:
    """The finding in one or two sentences; `told` is what decided its cause."""
    f, who = finding, whom(finding)
    if f.cause is None or f.kind is Kind.BACKSCATTER:
        words = _MEANING_OF_KIND.get(f.kind, f.kind.value)
        return f"{words[0].upper()}{words[1:]}" + (f" (recipient {who})." if who else ".")
    kind = f"a {f.permanence.value} {f.kind.value}" if f.kind is Kind.BOUNCE else f"a {f.kind.value}"
    about = f" for {who}" if who else ""
    return f"{kind[0].upper()}{kind[1:]}{about}: {meaning_of(f.cause, f.cause_detail)}. {told}".rstrip()


def meaning_of(cause: Cause, detail: str) -> str:
    """A cause in words."""
    return MEANING_OF[cause] + (f" ({detail})" if detail else "")


#: How a recipient was found whom the report does not name in a field of its own (`Finding.recovery`).
_FOUND = {
    "original_rcpt_to": "Original-Rcpt-To of the report",
    "removal_recipient": "Removal-Recipient of the report",
    "original_recipient_header": "X-HmXmrOriginalRecipient of the returned message",
    "returned_header": "the header of the returned message that says to whom it was delivered",
    "received_for": "the for clause of a Received header of the returned message",
    "sender": "who wrote the message",
    "keyed_hash": "the returned To, whose hash the report gives",
    "returned_to": "the returned To, which may be the address of a list",
    "message_id_map": "our own record of the message that is returned",
    "token_cfbl_feedback_id": "our signed token in CFBL-Feedback-ID",
    "token_header": "our signed token in the returned X-Mailecho-Token",
    "token_verp": "our signed token in the return path (VERP)",
    "token_envelope_id": "our signed token in the envelope id",
    "token_message_id": "our signed token in the Message-ID",
    "token_list_unsubscribe": "our signed token in List-Unsubscribe",
    "token_text": "our signed token in the words of the report",
}


def recipient_from(f: Finding, step: Step | None) -> str:
    """How the recipient was found."""
    if f.recovery in NOBODY:
        known = "; its Feedback-ID still names the campaign" if f.recovery == CAMPAIGN_ONLY else ""
        return f"the report hides it, and no token gives it back: counted, and nobody is suppressed{known}"
    if f.recovery:
        return _FOUND[f.recovery]
    if not f.recipient:
        return "the message names nobody"
    if step is not None:
        return step.row.found or "the report's words"
    return "the recipient fields of its machine part"


def trust_why(f: Finding, own: Own | None, judged: Judged | None) -> str:
    """Why a finding has the trust that it has."""
    if f.trust is Trust.VERIFIED:
        place = f", {_FOUND[f'token_{judged.place.value}'].partition(' in ')[2]}" if judged and judged.token else ""
        return f"a valid token of ours names this recipient{place}"
    if judged is not None and judged.forged:
        return (
            "it bears a token that no key of ours has signed"
            if judged.wrong
            else "it claims a return path or Message-ID of ours, and bears no token: all of ours do (tokens.required)"
        )
    if f.trust is Trust.PLAUSIBLE:
        if judged is not None and judged.token is not None:
            return "a valid token of ours is in it, and it names another recipient, or none"
        if judged is not None and judged.expired:
            return "a token of ours is in it whose last day has passed"
        return "the returned message names a domain of ours; anyone who has had mail from us could write that"
    if own is None or not (own.domains or own.keys):
        return "no own_domains are set, so nothing can show that it is about mail of ours"
    return "no token of ours is in it, and the returned message names none of our domains"
