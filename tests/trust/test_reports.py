"""Reports of mail that carried a token: who is verified, who is forged, and whom a redacted complaint is about."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import orjson
import pytest

from mailecho.pipeline.classify import classify_message
from mailecho.pipeline.classify.explain import FindingExplained, explain_message
from mailecho.pipeline.events import EventBuilder
from mailecho.pipeline.finding import Finding
from mailecho.pipeline.identity import Identity, NotAnAddress
from mailecho.pipeline.raw import RawReader
from mailecho.pipeline.trust import Keyring, Own, make_token
from mailecho.pipeline.trust.token import DAY_MS
from mailecho.schemas.event import NO_ID, Event
from mailecho.schemas.taxonomy import Kind, Trust
from mailecho.schemas.topics import RAW_DSN
from tests.ledger.histories import Folded

IDENTITY = Identity(b"k" * 32)
KEYS = Keyring({1: b"s" * 32})
USER, OTHER = "user@example.com", "other@example.com"
NOW = 1_795_000_000_000


def key_of(address: str) -> str:
    try:
        return IDENTITY.recipient_key(address)
    except NotAnAddress:
        return ""


OWN = Own(
    domains=frozenset({"sender.example"}),
    bounce_domains=frozenset({"bounces.sender.example"}),
    keys=KEYS,
    recipient_key=key_of,
)
TOKEN = make_token(KEYS, "5f3a09", tenant="shop", recipient_key=key_of(USER))
FORGED = make_token(Keyring({1: b"x" * 32}), "5f3a09", tenant="shop", recipient_key=key_of(OTHER))


def bounce(*recipients: str, to: str = "bounces@sender.example", returned: str = "", envelope: str = "") -> bytes:
    groups = "".join(
        f"\nFinal-Recipient: rfc822; {r}\nAction: failed\nStatus: 5.1.1\nDiagnostic-Code: smtp; 550 5.1.1 unknown\n"
        for r in recipients
    )
    return (
        f"From: MAILER-DAEMON@mx.example\nTo: {to}\nSubject: Undelivered\nDate: Fri, 20 Nov 2026 10:00:00 +0000\n"
        "Content-Type: multipart/report; report-type=delivery-status; boundary=b\n\n--b\n\nIt failed.\n"
        f"--b\nContent-Type: message/delivery-status\n\nReporting-MTA: dns; mx.example\n{envelope}{groups}\n"
        f"--b\nContent-Type: text/rfc822-headers\n\n{returned}\n--b--\n"
    ).encode()


def complaint(returned: str, fields: str = "") -> bytes:
    return (
        "From: fbl@isp.example\nTo: fbl@sender.example\nSubject: complaint\nDate: Fri, 20 Nov 2026 10:00:00 +0000\n"
        "Content-Type: multipart/report; report-type=feedback-report; boundary=b\n\n--b\n\nA complaint.\n"
        "--b\nContent-Type: message/feedback-report\n\nFeedback-Type: abuse\nUser-Agent: Feed/1\nVersion: 1\n"
        f"{fields}\n--b\nContent-Type: message/rfc822\n\n{returned}\nhello\n--b--\n"
    ).encode()


def only(raw: bytes, own: Own = OWN) -> Finding:
    findings = classify_message(raw, own, NOW)
    assert len(findings) == 1
    return findings[0]


def row(raw: bytes, own: Own = OWN) -> tuple[dict[str, object], str]:
    read = RawReader(EventBuilder(IDENTITY, "test"), IDENTITY, own).read(RAW_DSN, 0, 0, NOW, [], raw)
    assert not read.letters
    line = orjson.loads(read.lines[0].data)
    Event.model_validate(line["row"])
    return line["row"], line["address"]


# --- bounces --------------------------------------------------------------------------------------------------

IN_A_BOUNCE = {
    "verp": {"to": f"<b-{TOKEN}@bounces.sender.example>"},
    "return_path": {"returned": f"Return-Path: <b-{TOKEN.upper()}@bounces.sender.example>\n"},
    "envelope_id": {"envelope": f"Original-Envelope-Id: {TOKEN}\n"},
    "message_id": {"returned": f"Message-ID: <{TOKEN}@sender.example>\n"},
    "header": {"returned": f"X-Mailecho-Token: {TOKEN}\n"},
    "cfbl": {"returned": f"CFBL-Feedback-ID: {TOKEN}\n"},
    "unsubscribe": {"returned": f"List-Unsubscribe: <https://sender.example/u/{TOKEN}>\n"},
}


@pytest.mark.parametrize("place", IN_A_BOUNCE)
def test_a_token_verifies_its_recipient(place: str) -> None:
    found = only(bounce(USER, **IN_A_BOUNCE[place]))
    assert (found.kind, found.trust, found.recipient, found.tenant) == (Kind.BOUNCE, Trust.VERIFIED, USER, "shop")
    assert found.recovery == ""


def test_a_forward_is_about_whom_we_sent_to() -> None:
    found = only(bounce("somebody@elsewhere.example", to=f"b-{TOKEN}@bounces.sender.example"))
    assert (found.recipient, found.recipient_key, found.recovery) == ("", key_of(USER), "token_verp")
    event, address = row(bounce("somebody@elsewhere.example", to=f"b-{TOKEN}@bounces.sender.example"))
    assert (event["recipient_key"], event.get("recipient_domain", ""), address) == (key_of(USER), "", "")


def test_a_token_verifies_nobody_else() -> None:
    findings = classify_message(bounce(USER, OTHER, to=f"b-{TOKEN}@bounces.sender.example"), OWN, NOW)
    assert {f.recipient: f.trust for f in findings} == {USER: Trust.VERIFIED, OTHER: Trust.PLAUSIBLE}
    strangers = classify_message(bounce("a@example.com", OTHER, to=f"b-{TOKEN}@bounces.sender.example"), OWN, NOW)
    assert {(f.trust, f.recipient_key) for f in strangers} == {(Trust.PLAUSIBLE, "")}


def test_a_token_without_recipient_proves_the_message_alone() -> None:
    token = make_token(KEYS, "5f3a09", tenant="shop")
    found = only(bounce(USER, to=f"b-{token}@bounces.sender.example"))
    assert (found.trust, found.tenant, found.message_id) == (Trust.PLAUSIBLE, "shop", "5f3a09")


@pytest.mark.parametrize(
    "returned",
    [
        "From: news@mail.sender.example\n",
        "Message-ID: <1@sender.example>\n",
        "Return-Path: <bounces@sender.example>\n",
        "From: a@other.example\nDKIM-Signature: v=1; a=rsa-sha256;\n d=sender.example; s=k; b=x\n",
    ],
    ids=["from", "message_id", "return_path", "dkim"],
)
def test_naming_us_is_plausible(returned: str) -> None:
    assert only(bounce(USER, to="a@other.example", returned=returned)).trust is Trust.PLAUSIBLE


def test_naming_nobody_is_unverified() -> None:
    for domain in ("notsender.example", "sender.example.attacker.example", "other.example"):
        found = only(bounce(USER, to="a@other.example", returned=f"From: a@{domain}\nMessage-ID: <1@{domain}>\n"))
        assert (found.kind, found.trust) == (Kind.BOUNCE, Trust.UNVERIFIED)


@pytest.mark.parametrize("place", IN_A_BOUNCE)
def test_a_wrong_signature_is_backscatter(place: str) -> None:
    arguments = {
        name: text.replace(TOKEN, FORGED).replace(TOKEN.upper(), FORGED) for name, text in IN_A_BOUNCE[place].items()
    }
    found = only(bounce(OTHER, **arguments))
    assert (found.kind, found.trust) == (Kind.BACKSCATTER, Trust.UNVERIFIED)


def test_what_proves_nothing_is_no_backscatter() -> None:
    retired = make_token(Keyring({7: b"z" * 32}), "5f3a09")
    required = replace(OWN, tokens_required=True)
    for token in (retired, make_token(KEYS, "5f3a09", expires_ms=NOW - 9 * DAY_MS)):
        assert only(bounce(USER, to=f"b-{token}@bounces.sender.example"), required).kind is Kind.BOUNCE
    quoted = bounce(USER).replace(b"It failed.", b"It failed, as " + FORGED.encode())
    assert only(quoted).kind is Kind.BOUNCE


def test_required_tokens_make_a_bounce_without_one_backscatter() -> None:
    raw = bounce(USER, to="a@other.example", returned="From: news@sender.example\nMessage-ID: <1@sender.example>\n")
    required = replace(OWN, tokens_required=True)
    assert only(raw).kind is Kind.BOUNCE
    assert only(raw, required).kind is Kind.BACKSCATTER
    assert only(bounce(USER, to=f"b-{TOKEN}@bounces.sender.example"), required).trust is Trust.VERIFIED
    nothing = bounce(USER, to="a@other.example", returned="Subject: hello\n")
    assert only(nothing, required).kind is Kind.BOUNCE, "it does not say that it is ours"


def test_the_message_id_domain_may_be_another() -> None:
    own = replace(OWN, message_id_domains=frozenset({"relay.example"}), tokens_required=True)
    assert (
        only(bounce(USER, to="a@x.example", returned="Message-ID: <1@mx.relay.example>\n"), own).kind
        is Kind.BACKSCATTER
    )


# --- complaints -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "fields", "recovery", "confidence"),
    [
        (f"CFBL-Feedback-ID: {TOKEN}\n", "", "token_cfbl_feedback_id", 1.0),
        (f"X-Mailecho-Token: {TOKEN}\n", "", "token_header", 1.0),
        ("", f"Original-Mail-From: <b-{TOKEN}@bounces.sender.example>\n", "token_verp", 1.0),
        (f"Return-Path: <b-{TOKEN}@bounces.sender.example>\n", "", "token_verp", 1.0),
        ("", f"Original-Envelope-Id: {TOKEN}\n", "token_envelope_id", 1.0),
        (f"Message-ID: <{TOKEN}@sender.example>\n", "", "token_message_id", 1.0),
        ("", f"Original-Message-ID: <{TOKEN}@sender.example>\n", "token_message_id", 1.0),
        (f"List-Unsubscribe: <https://sender.example/u/{TOKEN}>\n", "", "token_list_unsubscribe", 0.95),
    ],
)
def test_a_redacted_complaint_is_resolved_by_its_token(
    returned: str, fields: str, recovery: str, confidence: float
) -> None:
    raw = complaint(f"From: news@sender.example\nTo: <redacted@isp.example>\n{returned}", fields)
    found = only(raw)
    assert (found.recipient_key, found.trust) == (key_of(USER), Trust.VERIFIED)
    assert (found.recovery, found.confidence) == (recovery, confidence)
    event, address = row(raw)
    assert (event["recipient_key"], event["recipient_domain"], address) == (key_of(USER), "isp.example", "")
    assert event["tenant"] == "shop"


def test_a_resolved_complaint_suppresses_its_recipient_and_an_unresolved_one_nobody() -> None:
    reader = RawReader(EventBuilder(IDENTITY, "test"), IDENTITY, OWN)

    def folded(raw: bytes) -> Folded:
        fold = Folded()
        fold.record(*(line.data for line in reader.read(RAW_DSN, 0, 0, NOW, [], raw).lines))
        return fold

    redacted = "From: news@sender.example\nTo: redacted@isp.example\n"
    (entry,) = folded(complaint(f"{redacted}X-Mailecho-Token: {TOKEN}\n")).entries().values()
    assert (entry["subject_key"], entry["address"], entry["state"]) == (key_of(USER), "", "active")
    assert not folded(complaint(redacted)).entries()
    assert not folded(bounce(OTHER, to=f"b-{FORGED}@bounces.sender.example")).entries()


HOSTILE = {
    "tokens": "X-Mailecho-Token: " + f"{FORGED} " * 20_000 + "\n",
    "hyphens": "Return-Path: " + "b-" * 100_000 + "\n",
    "labels": "From: a@" + "x." * 100_000 + "\n",
    "signatures": "DKIM-Signature: d=x.example;\n" * 20_000,
    "recipients": "To: " + "x@isp.example, " * 20_000 + "\n",
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.timeout(20)
def test_hostile_headers_come_to_an_end(name: str) -> None:
    assert only(complaint(HOSTILE[name])).kind is Kind.COMPLAINT
    assert only(bounce(USER, to="a@other.example", returned=HOSTILE[name])).kind in (Kind.BOUNCE, Kind.BACKSCATTER)


def test_a_clear_recipient_is_confirmed_and_a_wrong_one_overruled() -> None:
    clear = complaint(f"X-Mailecho-Token: {TOKEN}\n", f"Original-Rcpt-To: <{USER}>\n")
    assert (only(clear).recipient, only(clear).trust, only(clear).recovery) == (USER, Trust.VERIFIED, "token_header")
    wrong = complaint(f"X-Mailecho-Token: {TOKEN}\n", f"Original-Rcpt-To: <{OTHER}>\n")
    assert (only(wrong).recipient, only(wrong).recipient_key) == ("", key_of(USER))


def test_the_same_complaint_in_clear_and_redacted_is_one_event() -> None:
    returned = f"From: news@sender.example\nMessage-ID: <1@sender.example>\nX-Mailecho-Token: {TOKEN}\n"
    clear, _ = row(complaint(returned, f"Original-Rcpt-To: <{USER}>\n"))
    redacted, _ = row(complaint(returned, "Original-Rcpt-To: <redacted@isp.example>\n"))
    assert clear["event_id"] == redacted["event_id"]
    assert clear["outcome_id"] == redacted["outcome_id"]


def test_a_forged_token_in_a_complaint_resolves_nothing() -> None:
    found = only(complaint(f"From: news@sender.example\nX-Mailecho-Token: {FORGED}\n"))
    assert (found.kind, found.trust, found.recipient_key) == (Kind.COMPLAINT, Trust.UNVERIFIED, "")
    assert found.recovery == "unresolved"


PLACEHOLDERS = [
    "redacted@isp.example",
    "redacted",
    "x@isp.example",
    "xxxxxx@isp.example",
    "***@isp.example",
    "j***@isp.example",
    "9f86d081884c7d659a2feaa0c55ad015@isp.example",
    "user@redacted.invalid",
    "REDACTED@REDACTED",
    "anonymous@isp.example",
]


@pytest.mark.parametrize("placeholder", PLACEHOLDERS)
def test_a_placeholder_is_never_the_recipient(placeholder: str) -> None:
    raw = complaint(f"From: news@sender.example\nTo: {placeholder}\n", f"Original-Rcpt-To: <{placeholder}>\n")
    found = only(raw)
    assert (found.kind, found.recovery, found.recipient_key) == (Kind.COMPLAINT, "unresolved", "")
    event, address = row(raw)
    assert (event.get("recipient_key", NO_ID), address) == (NO_ID, "")
    assert event["recovery"] == "unresolved"


@pytest.mark.parametrize("address", ["max@example.com", "x.y@example.com", "ada@example.com", "facade@example.com"])
def test_an_ordinary_address_is_no_placeholder(address: str) -> None:
    assert only(complaint("", f"Original-Rcpt-To: {address}\n")).recipient == address


@pytest.mark.parametrize(
    ("returned", "recovery", "confidence"),
    [
        (f"X-HmXmrOriginalRecipient: {USER}\n", "original_recipient_header", 0.8),
        (f"X-Original-To: {USER}\n", "returned_header", 0.8),
        (
            "Received: from a by b for <forward@isp.example>; Fri, 20 Nov 2026 10:00:01 +0000\n"
            f"Received: from app by mta.sender.example\n for <{USER}>; Fri, 20 Nov 2026 10:00:00 +0000\n",
            "received_for",
            0.8,
        ),
        (f"To: User <{USER}>\n", "returned_to", 0.6),
    ],
)
def test_the_steps_below_a_token(returned: str, recovery: str, confidence: float) -> None:
    found = only(complaint(returned, "Original-Rcpt-To: redacted@isp.example\n"))
    assert (found.recipient, found.recovery, found.confidence) == (USER, recovery, confidence)


@pytest.mark.parametrize("name", ["md5", "sha1", "sha256"])
def test_a_hash_names_the_one_that_it_is_of(name: str) -> None:
    digest = hashlib.new(name, USER.encode()).hexdigest()
    found = only(complaint(f"To: {OTHER}, {USER}\n", f"Original-Rcpt-To: {digest}@isp.example\n"))
    assert (found.recipient, found.recovery, found.confidence) == (USER, "keyed_hash", 0.7)


def test_of_two_in_the_to_field_nobody_is_guessed() -> None:
    assert only(complaint(f"To: {OTHER}, {USER}\n")).recovery == "unresolved"


def test_a_feedback_id_tells_the_campaign_and_nobody() -> None:
    raw = complaint("From: news@sender.example\nFeedback-ID: spring:7:mail:sender\n")
    event, _ = row(raw)
    assert (event["recovery"], event["campaign"]) == ("feedback_id", "spring")
    assert event.get("recipient_key", NO_ID) == NO_ID


def test_a_map_of_message_ids_resolves_where_one_recipient_is_known() -> None:
    raw = complaint("From: news@sender.example\nMessage-ID: <1@sender.example>\n")
    known = replace(OWN, recipients_of={"1@sender.example": [key_of(USER)]}.__getitem__)
    found = only(raw, known)
    assert (found.recipient_key, found.recovery, found.confidence) == (key_of(USER), "message_id_map", 0.9)
    many = replace(OWN, recipients_of=lambda _: [key_of(USER), key_of(OTHER)])
    assert only(raw, many).recovery == "unresolved"


def test_an_expired_token_still_names_us() -> None:
    token = make_token(KEYS, "5f3a09", recipient_key=key_of(USER), expires_ms=NOW - 9 * DAY_MS)
    found = only(complaint(f"X-Mailecho-Token: {token}\n"))
    assert (found.trust, found.recipient_key) == (Trust.PLAUSIBLE, "")


def test_an_unsubscribe_mail_is_verified_by_the_token_of_its_link() -> None:
    raw = f"From: someone@else.example\nTo: unsubscribe@sender.example\nSubject: unsubscribe {TOKEN}\n\n".encode()
    found = only(raw)
    assert (found.kind, found.trust, found.recipient_key) == (Kind.UNSUBSCRIBE, Trust.VERIFIED, key_of(USER))


# --- and why --------------------------------------------------------------------------------------------------


def explained(raw: bytes, own: Own = OWN) -> FindingExplained:
    (finding,) = explain_message(raw, own, NOW)
    return finding


def test_an_explanation_says_what_proves_a_report_and_whom_a_hidden_one_is_about() -> None:
    why = explained(complaint(f"From: news@sender.example\nX-Mailecho-Token: {TOKEN}\nTo: redacted@isp.example\n"))
    assert (why.kind, why.recipient_key, why.trust) == ("complaint", key_of(USER), "verified")
    assert why.whom == f"key {key_of(USER)}"
    assert why.recipient_from == "our signed token in the returned X-Mailecho-Token"
    assert why.trust_why == "a valid token of ours names this recipient, the returned X-Mailecho-Token"
    why = explained(complaint("From: news@sender.example\nTo: redacted@isp.example\n"))
    assert (why.whom, why.advice.partition(":")[0]) == ("", "Nobody can be suppressed")
    assert why.recipient_from.startswith("the report hides it, and no token gives it back: counted, and nobody is")


def test_an_explanation_says_why_a_report_is_forged() -> None:
    why = explained(bounce(OTHER, to=f"<b-{FORGED}@bounces.sender.example>"))
    assert (why.kind, why.trust, why.trust_why) == (
        "backscatter",
        "unverified",
        "it bears a token that no key of ours has signed",
    )
    assert why.kind_why.endswith("it claims to be about mail of ours, and it is provably not")
    required = replace(OWN, tokens_required=True)
    why = explained(bounce(OTHER, to="<plain@bounces.sender.example>"), required)
    assert (why.kind, why.trust_why.partition(":")[0]) == (
        "backscatter",
        "it claims a return path or Message-ID of ours, and bears no token",
    )


def test_an_explanation_says_why_a_report_is_no_more_than_plausible() -> None:
    why = explained(bounce(OTHER, to=f"<b-{TOKEN}@bounces.sender.example>", returned="From: x@y.example\n"), OWN)
    assert why.trust == "verified"  # about whom we sent to
    two = explain_message(bounce(USER, OTHER, to=f"<b-{TOKEN}@bounces.sender.example>"), OWN, NOW)
    assert [f.trust for f in two] == ["verified", "plausible"]
    assert two[1].trust_why == "a valid token of ours is in it, and it names another recipient, or none"
    old = make_token(KEYS, "5f3a09", recipient_key=key_of(USER), expires_ms=NOW - 3 * DAY_MS)
    why = explained(bounce(USER, to=f"<b-{old}@bounces.sender.example>"))
    assert why.trust_why == "a token of ours is in it whose last day has passed"
