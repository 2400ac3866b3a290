"""Non-delivery reports in words, as Exchange writes them in many languages, with no part for machines."""

from __future__ import annotations

import pytest

from mailecho.pipeline.classify import classify_message
from mailecho.schemas.taxonomy import Kind

#: Subject and first line by language.
FAILED = {
    "de": ("Unzustellbar: Frühling", "Fehler bei der Nachrichtenzustellung an folgende Empfänger oder Gruppen:"),
    "fr": ("Non remis : Printemps", "Échec de la remise à ces destinataires ou groupes :"),
    "es": ("No se puede entregar: Primavera", "Error de entrega a estos destinatarios o grupos:"),
    "it": ("Non recapitabile: Primavera", "Recapito non riuscito a questi destinatari o gruppi:"),
    "pt": ("Não entregue: Primavera", "Falha na entrega para estes destinatários ou grupos:"),
    "nl": ("Niet bezorgd: Lente", "De bezorging van uw bericht aan de volgende geadresseerden of groepen is mislukt:"),
    "sv": ("Olevererbart: Vår", "Leveransen till följande mottagare eller grupper misslyckades:"),
    "da": ("Kan ikke leveres: Forår", "Levering til disse modtagere eller grupper mislykkedes:"),
    "nb": ("Kan ikke leveres: Vår", "Levering til følgende mottakere eller grupper mislyktes:"),
    "fi": ("Ei voida toimittaa: Kevät", "Toimitus näille vastaanottajille tai ryhmille epäonnistui:"),
    "pl": ("Niedostarczalne: Wiosna", "Dostarczanie wiadomości do następujących adresatów lub grup nie powiodło się:"),
    "cs": ("Nedoručitelné: Jaro", "Doručení následujícím příjemcům nebo skupinám se nezdařilo:"),
    "hu": ("Kézbesíthetetlen: Tavasz", "A kézbesítés a következő címzetteknek vagy csoportoknak nem sikerült:"),
    "ro": ("Nelivrabil: Primăvara", "Livrarea nu a reușit la acești destinatari sau grupuri:"),
    "tr": ("Teslim Edilemez: Bahar", "Teslimat bu alıcılara veya gruplara yapılamadı:"),
    "el": ("Μη παραδοτέο: Άνοιξη", "Η παράδοση απέτυχε σε αυτούς τους παραλήπτες ή ομάδες:"),
    "ru": ("Не доставлено: Весна", "Сбой доставки следующим получателям или группам:"),
    "uk": ("Не доставлено: Весна", "Не вдалося доставити повідомлення таким отримувачам або групам:"),
    "he": ("לא ניתן למסירה: אביב", "המסירה נכשלה לנמענים או לקבוצות הבאים:"),
    "ar": ("غير قابل للتسليم: الربيع", "فشل التسليم إلى هؤلاء المستلمين أو المجموعات:"),
    "th": ("ส่งไม่ได้: ฤดูใบไม้ผลิ", "การส่งไปยังผู้รับหรือกลุ่มเหล่านี้ล้มเหลว:"),
    "vi": ("Không gửi được: Mùa xuân", "Không thể gửi đến những người nhận hoặc nhóm này:"),
    "id": ("Tidak terkirim: Musim semi", "Pengiriman gagal ke penerima atau grup berikut:"),
    "ja": ("配信不能: 春", "次の受信者またはグループへのメッセージの配信に失敗しました:"),
    "ko": ("배달되지 않음: 봄", "다음 받는 사람 또는 그룹에게 배달하지 못했습니다:"),
    "zh": ("未送达: 春天", "未能向以下收件人或组传递:"),
    "zh_tw": ("無法傳遞: 春天", "無法傳遞給下列收件者或群組:"),
}


@pytest.mark.parametrize("language", FAILED)
@pytest.mark.parametrize("html", [False, True])
def test_a_report_in_words_of_any_language(language: str, html: bool) -> None:
    subject, line = FAILED[language]
    body = f"{line}\n\nuser@example.com\n"
    if html:
        body = f"<html><body><table><tr><td>{line}</td><td>user@example.com</td></tr></table></body></html>"
    raw = (
        f"From: Microsoft Outlook <postmaster@example.com>\nTo: news@sender.example\nSubject: {subject}\n"
        f"MIME-Version: 1.0\nContent-Type: text/{'html' if html else 'plain'}; charset=utf-8\n\n{body}"
    ).encode()
    assert [(f.kind, f.recipient) for f in classify_message(raw)] == [(Kind.BOUNCE, "user@example.com")]


def test_what_has_not_been_delivered_is_a_delay_only_where_time_is_spoken_of() -> None:
    def kind_of(words: str) -> Kind:
        raw = f"From: MAILER-DAEMON@gw.example\nSubject: Delivery report\n\nYour message to user@example.com\n{words}\n"
        return classify_message(raw.encode())[0].kind

    assert kind_of("was blocked by our filter. It has not been delivered.") is Kind.BOUNCE
    assert kind_of("has not been delivered yet. We go on.") is Kind.DELAY
    assert kind_of("has not been delivered after 4 hours.") is Kind.DELAY
