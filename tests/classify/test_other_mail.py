"""What answers mail and is no bounce: absences, challenges, receipts, notices, reports by the thousand, letters."""

from __future__ import annotations

import pytest

from mailecho.pipeline.classify import classify_message
from mailecho.schemas.taxonomy import Kind


def mail(subject: str, body: str, *, sender: str = "Some One <user@example.com>", head: str = "") -> bytes:
    return f"From: {sender}\nTo: news@sender.example\nSubject: {subject}\n{head}\n{body}\n".encode()


RETURNED = (
    "From: news@sender.example\nTo: user@example.com\nSubject: Spring\nMessage-ID: <spring-1@sender.example>\n\nhello\n"
)


def report(part_type: str, fields: str, *, kind: str, subject: str = "Report", sender: str = "mx@example.com") -> bytes:
    return (
        f"From: {sender}\nTo: news@sender.example\nSubject: {subject}\nMIME-Version: 1.0\n"
        f"Content-Type: multipart/report; report-type={kind}; boundary=b1\n\n--b1\n"
        f"Content-Type: text/plain\n\nA report.\n"
        f"--b1\nContent-Type: {part_type}\n\n{fields}\n--b1\nContent-Type: message/rfc822\n\n{RETURNED}\n--b1--\n"
    ).encode()


ABSENT = {
    "en": ("Out of office", "I am away until Monday. In urgent cases write to my colleague."),
    "en_failed": (
        "Automatic reply: Spring",
        "I am no longer with the company; mail to this address will not be delivered.",
    ),
    "de": ("Abwesenheitsnotiz", "Ich bin bis Montag nicht im Haus."),
    "fr": ("Réponse automatique : Printemps", "Je suis absent jusqu'à lundi."),
    "es": ("Respuesta automática: Primavera", "Estoy fuera de la oficina hasta el lunes."),
    "it": ("Risposta automatica: Primavera", "Sono fuori ufficio fino a lunedì."),
    "pt": ("Resposta automática: Primavera", "Estou fora do escritório até segunda-feira."),
    "nl": ("Automatisch antwoord: Lente", "Ik ben afwezig tot maandag."),
    "sv": ("Autosvar: Vår", "Jag är borta till måndag."),
    "da": ("Automatisk svar: Forår", "Jeg er ikke på kontoret."),
    "nb": ("Automatisk svar: Vår", "Jeg er ikke på kontoret."),
    "fi": ("Automaattinen vastaus: Kevät", "Olen poissa maanantaihin asti."),
    "pl": ("Odpowiedź automatyczna: Wiosna", "Jestem nieobecny do poniedziałku."),
    "cs": ("Automatická odpověď: Jaro", "Jsem mimo kancelář."),
    "sk": ("Automatická odpoveď: Jar", "Som mimo kancelárie."),
    "hu": ("Automatikus válasz: Tavasz", "Hétfőig nem vagyok elérhető."),
    "ro": ("Răspuns automat: Primăvara", "Sunt plecat până luni."),
    "tr": ("Otomatik yanıt: Bahar", "Pazartesiye kadar ofis dışındayım."),
    "el": ("Αυτόματη απάντηση: Άνοιξη", "Θα λείπω μέχρι τη Δευτέρα."),
    "ru": ("Автоматический ответ: Весна", "Меня не будет до понедельника."),
    "uk": ("Автоматична відповідь: Весна", "Мене не буде до понеділка."),
    "ja": ("自動応答: 春", "月曜日まで不在です。"),
    "zh": ("自动回复：春天", "我周一之前不在办公室。"),
    "zh_tw": ("自動回覆: 春天", "我星期一之前不在辦公室。"),
    "ko": ("자동 회신: 봄", "월요일까지 자리를 비웁니다."),
    "he": ("מענה אוטומטי: אביב", "אני מחוץ למשרד עד יום שני."),
    "ar": ("رد تلقائي: الربيع", "أنا خارج المكتب حتى يوم الاثنين."),
    "th": ("ตอบกลับอัตโนมัติ: ฤดูใบไม้ผลิ", "ไม่อยู่สำนักงานจนถึงวันจันทร์"),
    "vi": ("Trả lời tự động: Xuân", "Tôi vắng mặt đến thứ hai."),
    "id": ("Balasan otomatis: Musim semi", "Saya tidak di kantor sampai Senin."),
}


@pytest.mark.parametrize("language", ABSENT)
@pytest.mark.parametrize("marked", [True, False], ids=["rfc3834", "subject_alone"])
def test_absence(language: str, marked: bool) -> None:
    subject, body = ABSENT[language]
    head = "Auto-Submitted: auto-replied\nIn-Reply-To: <spring-1@sender.example>\n" if marked else ""
    found = classify_message(mail(subject, body, head=head))[0]
    assert found.kind is Kind.AUTO_REPLY
    assert found.message_id == ("spring-1@sender.example" if marked else "")


@pytest.mark.parametrize(
    "head",
    [
        "Auto-Submitted: auto-generated (vacation)\n",
        "X-Autoreply: yes\n",
        "X-Autorespond: Spring\n",
        "Precedence: auto_reply\n",
        "X-Apple-Action: vacation\n",
        "X-Auto-Response-Suppress: All\nAuto-Submitted: auto-generated\n",
    ],
)
def test_absence_by_its_header(head: str) -> None:
    assert (
        classify_message(mail("Re: Spring", "Thank you, I shall read it later.", head=head))[0].kind is Kind.AUTO_REPLY
    )


def test_a_bounce_that_calls_itself_an_auto_reply_is_a_bounce() -> None:
    raw = report(
        "message/delivery-status",
        "Reporting-MTA: dns; mx.example.com\n\nFinal-Recipient: rfc822; user@example.com\n"
        "Action: failed\nStatus: 5.1.1\n",
        kind="delivery-status",
    )
    found = classify_message(b"Auto-Submitted: auto-replied\n" + raw)[0]
    assert (found.kind, found.recipient) == (Kind.BOUNCE, "user@example.com")


CHALLENGES = {
    "service": ("Re: Spring", "Please click the link below to verify that you are a person.", ""),
    "confirm": (
        "Please confirm your message to user",
        "Follow this link once, and your mail will be delivered.",
        "Auto-Submitted: auto-replied\n",
    ),
    "verify": ("Verification request: Spring", "Your message is held until you click the link below to verify.", ""),
    "approved": (
        "Re: Spring",
        "You are not on my approved senders list. Please confirm that you sent this.",
        "X-Autoreply: yes\n",
    ),
    "failed": (
        "Sender verification required",
        "Your message could not be delivered yet. Please confirm that you sent it.",
        "Return-Path: <>\n",
    ),
    "de": (
        "Bitte bestätigen Sie Ihre Nachricht",
        "Ihre E-Mail wartet auf Bestätigung. Klicken Sie auf den Link.",
        "Auto-Submitted: auto-replied\n",
    ),
    "fr": (
        "Merci de confirmer votre message",
        "Cliquez sur le lien pour confirmer que vous êtes l'expéditeur.",
        "Auto-Submitted: auto-replied\n",
    ),
    "es": (
        "Por favor confirme su mensaje",
        "Haga clic en el enlace para confirmar su mensaje.",
        "Auto-Submitted: auto-replied\n",
    ),
}


@pytest.mark.parametrize("name", CHALLENGES)
def test_challenge(name: str) -> None:
    subject, body, head = CHALLENGES[name]
    sender = "user <user@spamarrest.com>" if name == "service" else "user@example.com"
    assert {f.kind for f in classify_message(mail(subject, body, sender=sender, head=head))} == {Kind.CHALLENGE}


RECEIPTS = {
    "displayed": "Final-Recipient: rfc822;user@example.com\nDisposition: manual-action/MDN-sent-manually; displayed\n",
    "deleted_unread": "Final-Recipient: rfc822;user@example.com\n"
    "Disposition: automatic-action/MDN-sent-automatically; deleted\n",
    "error": "Final-Recipient: rfc822;user@example.com\n"
    "Disposition: automatic-action/MDN-sent-automatically; processed/error\n"
    "Error: 550 5.1.1 user unknown\n",
}


@pytest.mark.parametrize("name", RECEIPTS)
def test_a_receipt_is_never_a_bounce(name: str) -> None:
    fields = f"Original-Message-ID: <spring-1@sender.example>\n{RECEIPTS[name]}"
    raw = report(
        "message/disposition-notification",
        fields,
        kind="disposition-notification",
        subject="Not read: Spring, undeliverable",
        sender="postmaster@example.com",
    )
    found = classify_message(raw)
    assert [(f.kind, f.recipient, f.message_id) for f in found] == [
        (Kind.READ_RECEIPT, "user@example.com", "spring-1@sender.example")
    ]


@pytest.mark.parametrize("action", ["delivered", "relayed", "expanded"])
def test_a_notice_of_success_is_a_delivery(action: str) -> None:
    raw = report(
        "message/delivery-status",
        f"Reporting-MTA: dns; mx.example.com\n\nFinal-Recipient: rfc822; user@example.com\n"
        f"Action: {action}\nStatus: 2.0.0\n",
        kind="delivery-status",
        subject="Successful mail delivery report",
    )
    found = classify_message(raw)[0]
    assert (found.kind, found.action, found.cause) == (Kind.DELIVERY, action, None)


DAEMON = "Mail Delivery Subsystem <MAILER-DAEMON@mx.example>"


@pytest.mark.parametrize(
    ("subject", "body", "sender"),
    [
        (
            "Successful Mail Delivery Report",
            "Your message was successfully delivered to the destination(s)\nlisted below.\n\n"
            "<user@example.com>: delivery via mx.example: 250 2.0.0 Ok: queued\n",
            DAEMON,
        ),
        (
            "Return receipt",
            "   ----- The following addresses had successful delivery notifications -----\n"
            "<user@example.com>  (relayed to non-DSN-aware mailer)\n",
            DAEMON,
        ),
        (
            "Delivery Status Notification (Success)",
            "Your message has been delivered to the following recipients:\n\nuser@example.com\n",
            "postmaster@example.com",
        ),
        (
            "Delivered: Spring",
            "Your message has been delivered to the following recipients:\n\nuser@example.com\n",
            "Microsoft Outlook <MicrosoftExchange@example.com>",
        ),
    ],
)
def test_a_success_in_words_is_a_delivery(subject: str, body: str, sender: str) -> None:
    found = classify_message(mail(subject, body, sender=sender, head="Return-Path: <>\n"))
    assert [(f.kind, f.recipient, f.cause) for f in found] == [(Kind.DELIVERY, "user@example.com", None)]
    failed = body.replace("was successfully", "could not be").replace("has been", "has not been")
    if failed != body:
        failed = failed.replace("250 2.0.0 Ok: queued", "550 5.1.1 no such user")
        assert classify_message(mail(subject, failed, sender=sender))[0].kind in (Kind.BOUNCE, Kind.DELAY)


def test_an_absence_note_that_speaks_of_failure_is_no_bounce() -> None:
    head = "Return-Path: <>\nAuto-Submitted: auto-replied\n"
    raw = mail("Out of office: undeliverable until Monday", "Mail to me is returned to sender.", head=head)
    assert classify_message(raw)[0].kind is Kind.AUTO_REPLY


@pytest.mark.parametrize(
    ("subject", "body"),
    [
        ("Read: Spring", "Your message\n\n To: user\n Subject: Spring\n\nwas read on Friday, 10:00."),
        ("Not read: Spring", "Your message\n\n To: user\n\nwas deleted without being read on Friday."),
        ("Return receipt (displayed) - Spring", "Note: this acknowledges that the message was displayed."),
    ],
)
def test_a_receipt_in_words(subject: str, body: str) -> None:
    assert classify_message(mail(subject, body))[0].kind is Kind.READ_RECEIPT


NOTICES = {
    "digest": (
        "Quarantine summary",
        "You have 3 quarantined messages. Release them by a click.",
        "quarantine@filter.example",
    ),
    "held": (
        "Your message has been quarantined",
        "The mail that you sent is held for review by an administrator.",
        "postmaster@filter.example",
    ),
    "virus": (
        "Virus found in message Spring",
        "A virus was found in the mail that you sent. The message was put into quarantine.",
        "antivirus@filter.example",
    ),
    "virus_warning": (
        "WARNING: YOU SENT A VIRUS",
        "Our content checker found a virus in your mail to user@example.com. It has been quarantined.",
        "Content filter <postmaster@filter.example>",
    ),
    "virus_of_yours": (
        "VIRUS (Worm.Sample-7) in mail from you",
        "Our content checker found it in your mail to:\n-> user@example.com\nDelivery of the email was stopped!",
        "antivirus@filter.example",
    ),
    "attachment": (
        "Attachment removed: Spring",
        "An attachment was removed from the message that you sent and quarantined.",
        "mailscanner@filter.example",
    ),
    "de": (
        "Ihre Nachricht wurde in Quarantäne verschoben",
        "Ihre Nachricht wird von einem Administrator geprüft.",
        "postmaster@filter.example",
    ),
    "fr": ("Message mis en quarantaine", "Votre message a été mis en quarantaine.", "postmaster@filter.example"),
    "es": ("Mensaje en cuarentena", "Su mensaje se ha puesto en cuarentena.", "postmaster@filter.example"),
}


@pytest.mark.parametrize("name", NOTICES)
def test_notice_of_a_filter(name: str) -> None:
    subject, body, sender = NOTICES[name]
    assert {f.kind for f in classify_message(mail(subject, body, sender=sender))} == {Kind.QUARANTINE_NOTICE}


AUTH = (
    "Feedback-Type: auth-failure\nUser-Agent: Checker/1\nVersion: 1\n"
    "Source-IP: 192.0.2.55\nReported-Domain: sender.example\n"
)


@pytest.mark.parametrize(
    ("fields", "check"),
    [
        ("Auth-Failure: signature\nDKIM-Domain: sender.example\nDelivery-Result: reject\n", "signature"),
        ("Auth-Failure: spf\nOriginal-Mail-From: bounces@sender.example\n", "spf"),
        ("Auth-Failure: dmarc\nIdentity-Alignment: none\n", "dmarc"),
        ("Identity-Alignment: dkim\n", "dmarc"),
    ],
)
def test_a_failed_authentication_is_reported_and_no_complaint(fields: str, check: str) -> None:
    raw = report("message/feedback-report", AUTH + fields, kind="feedback-report")
    found = classify_message(raw)
    assert [(f.kind, f.cause_detail, f.sending_ip) for f in found] == [(Kind.AUTH_REPORT, check, "192.0.2.55")]


def aggregate(content_type: str, subject: str, head: str = "", disposition: str = "") -> bytes:
    return mail(
        subject,
        "UEsDBAoAAAAAAA==",
        sender="reports@isp.example",
        head=f"{head}Content-Type: {content_type}\n{disposition}Content-Transfer-Encoding: base64\n",
    )


SUBJECT = "Report Domain: sender.example Submitter: isp.example Report-ID: <7>"


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (aggregate('application/gzip; name="isp.example!sender.example!1!2.xml.gz"', SUBJECT), "dmarc-aggregate"),
        (aggregate("application/zip", SUBJECT), "dmarc-aggregate"),
        (
            aggregate(
                "application/octet-stream",
                "Your report",
                disposition="Content-Disposition: attachment; filename=isp.example!sender.example!1!2!x7.zip\n",
            ),
            "dmarc-aggregate",
        ),
        (aggregate("application/tlsrpt+gzip; name=isp.example!sender.example!1!2!001.json.gz", SUBJECT), "tls-rpt"),
        (aggregate("application/gzip", SUBJECT, "TLS-Report-Domain: sender.example\n"), "tls-rpt"),
        (aggregate("application/pdf; name=invoice.pdf", "Invoice"), ""),
    ],
)
def test_a_report_about_many_messages_is_one_event_by_its_name(raw: bytes, name: str) -> None:
    found = classify_message(raw)
    assert [(f.kind, f.feedback_type) for f in found] == [(Kind.NOT_FEEDBACK, name)]


LETTERS = [
    mail("Our vacation plans", "Shall we fly in May?"),
    mail("Re: failed exam", "I failed again. Could you help?"),
    mail("Virus season", "Everybody at school is ill."),
    mail("Virus warning for this winter", "Wash your hands."),
    mail("Meeting notes", "The message could not be clearer: we deliver on Monday."),
    mail(
        "Spam filter offers for your company",
        "Buy our quarantine now.",
        head="List-Unsubscribe: <https://shop.example/u>\n",
    ),
    mail("Your parcel could not be delivered", "Please choose a new date.", sender="Parcels <info@parcel.example>"),
]


@pytest.mark.parametrize("raw", LETTERS)
def test_a_letter_is_no_bounce_and_no_complaint(raw: bytes) -> None:
    assert classify_message(raw)[0].kind in (Kind.NOT_FEEDBACK, Kind.AUTO_REPLY)


def with_file(subject: str, body: str, sender: str, file: str) -> bytes:
    return (
        f"From: {sender}\nTo: news@sender.example\nSubject: {subject}\nMIME-Version: 1.0\n"
        f"Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain\n\n{body}\n"
        f'--b\nContent-Type: application/octet-stream; name="{file}"\n\nUEsDBAoA\n--b--\n'
    ).encode()


#: What takes the name of a mail system: worms with their program, phishing with its link. Neither returns a message.
PRETENDERS = [
    with_file("Mail Transaction Failed", "The transaction failed. A part of the message is there.", DAEMON, "mail.zip"),
    with_file("Returned mail: see file", "Your account was used for spam.", "postmaster@sender.example", "a.txt.scr"),
    mail(
        "5 undelivered mails for news@sender.example",
        "Your mailbox is full, messages could not be delivered. Release: http://evil.example/x",
        sender="Mail Administrator <admin@evil.example>",
    ),
    mail(
        "Undeliverable: Invoice",
        "Delivery has failed to these recipients or groups: your storage is full. Recover at http://evil.example/x",
        sender="Microsoft Outlook <postmaster@evil.example>",
    ),
]


@pytest.mark.parametrize("raw", PRETENDERS)
def test_who_takes_the_name_of_a_mail_system_is_no_report(raw: bytes) -> None:
    assert [f.kind for f in classify_message(raw)] == [Kind.NOT_FEEDBACK]


def test_a_report_that_names_nobody_counts_where_a_mail_system_shows_itself() -> None:
    for head in ("Return-Path: <>\n", "Auto-Submitted: auto-replied\n"):
        raw = mail("Undeliverable mail", "Your mail could not be delivered.", sender="postmaster@x.example", head=head)
        assert [f.kind for f in classify_message(raw)] == [Kind.BOUNCE]


def test_a_page_of_text_is_no_report() -> None:
    page = b"# Bounces\n\nThe mail server says:\n\n<user@example.com>: 550 5.1.1 user unknown, could not be delivered\n"
    assert [f.kind for f in classify_message(page)] == [Kind.NOT_FEEDBACK]
    assert [f.kind for f in classify_message(b"From: MAILER-DAEMON@mx.example\n\n" + page)] == [Kind.BOUNCE]
