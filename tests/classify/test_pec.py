"""Receipts of certified mail (PEC): delivered is not accepted, and a failure names its recipient."""

from __future__ import annotations

import pytest

from mailecho.pipeline.classify import classify_message
from mailecho.schemas.taxonomy import Cause, Kind, Permanence

DATA = """\
<?xml version="1.0" encoding="UTF-8"?>
<postacert tipo="{kind}" errore="{error}">
<intestazione><mittente>ufficio@mittente.example</mittente>
<destinatari tipo="certificato">mario@pec.example</destinatari>
<destinatari tipo="esterno">anna@posta.example</destinatari>
<risposte>ufficio@mittente.example</risposte><oggetto>Avviso</oggetto></intestazione>
<dati><gestore-emittente>Posta Esempio S.p.A.</gestore-emittente>
<msgid>&lt;m1@mittente.example&gt;</msgid>{more}</dati></postacert>
"""
SAID = {
    "errore-consegna": 'nel messaggio "Avviso" proveniente da "ufficio@mittente.example" e destinato all\'utente '
    '"mario@pec.example" è stato rilevato un errore 5.1.1 - indirizzo non valido. Il messaggio è stato rifiutato.',
}


def receipt(kind: str, error: str = "nessuno", more: str = "", *, data: bool = True) -> bytes:
    xml = DATA.format(kind=kind, error=error, more=more) if data else ""
    part = f'--b\nContent-Type: application/xml; name="daticert.xml"\n\n{xml}\n' if data else ""
    return (
        "From: posta-certificata@pec.example\nTo: ufficio@mittente.example\nSubject: RICEVUTA: Avviso\n"
        f"X-Ricevuta: {kind}\nX-Riferimento-Message-ID: <m1@mittente.example>\n"
        "Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain; charset=utf-8\n\n"
        f"{SAID.get(kind, 'Ricevuta')}\n{part}--b--\n"
    ).encode()


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("accettazione", (Kind.DELIVERY, "relayed")),
        ("presa-in-carico", (Kind.DELIVERY, "relayed")),
        ("preavviso-errore-consegna", (Kind.DELAY, "delayed")),
    ],
)
def test_a_receipt_about_all_recipients_names_each(kind: str, expected: tuple[Kind, str]) -> None:
    findings = classify_message(receipt(kind))
    assert [(f.kind, f.action) for f in findings] == [expected] * 2
    assert [f.recipient for f in findings] == ["mario@pec.example", "anna@posta.example"]
    assert {f.message_id for f in findings} == {"m1@mittente.example"}


def test_a_delivery_is_of_one_recipient() -> None:
    (found,) = classify_message(receipt("avvenuta-consegna", more="<consegna>mario@pec.example</consegna>"))
    assert (found.kind, found.action, found.recipient, found.cause) == (
        Kind.DELIVERY,
        "delivered",
        "mario@pec.example",
        None,
    )


@pytest.mark.parametrize(
    ("error", "said", "cause", "status"),
    [
        ("no-dest", "5.1.1 - indirizzo non valido", Cause.MAILBOX_UNKNOWN, "5.1.1"),
        ("no-dominio", "il dominio non esiste", Cause.DOMAIN_UNKNOWN, "5.1.2"),
        ("virus", "5.7.0 rilevato virus", Cause.MALWARE, "5.7.0"),
    ],
)
def test_a_failure_has_its_reason(error: str, said: str, cause: Cause, status: str) -> None:
    more = f"<consegna>mario@pec.example</consegna><errore-esteso>{said}</errore-esteso>"
    (found,) = classify_message(receipt("errore-consegna", error, more))
    assert (found.kind, found.cause, found.status, found.permanence) == (
        Kind.BOUNCE,
        cause,
        status,
        Permanence.PERMANENT,
    )
    assert found.source_host == "Posta Esempio S.p.A."


def test_the_words_tell_where_the_data_is_lost() -> None:
    (found,) = classify_message(receipt("errore-consegna", data=False))
    assert (found.kind, found.recipient, found.cause) == (Kind.BOUNCE, "mario@pec.example", Cause.MAILBOX_UNKNOWN)


@pytest.mark.parametrize("kind", ["posta-certificata", "", "errore-consegna-x"])
def test_other_certified_mail_is_no_receipt(kind: str) -> None:
    (found,) = classify_message(receipt(kind))
    assert found.kind is Kind.NOT_FEEDBACK
