"""Exchange Online's report in many languages: the reply stays English, all words around it change."""

from __future__ import annotations

import pytest

from mailecho.pipeline.classify import classify_message
from mailecho.schemas.taxonomy import Cause, Kind

#: Language -> subject, sentence above the recipients, heading of the diagnostics, label of the generating server.
WORDS = {
    "de": (
        "Unzustellbar: Order",
        "Fehler bei der Nachrichtenzustellung an folgende Empfänger oder Gruppen:",
        "Diagnoseinformationen für Administratoren:",
        "Generierender Server:",
    ),
    "fr": (
        "Non remis : Order",
        "Échec de la remise à ces destinataires ou groupes :",
        "Informations de diagnostic pour les administrateurs :",
        "Serveur de génération :",
    ),
    "es": (
        "No se puede entregar: Order",
        "Error de entrega a estos destinatarios o grupos:",
        "Información de diagnóstico para administradores:",
        "Servidor de generación:",
    ),
    "it": (
        "Non recapitabile: Order",
        "Impossibile recapitare il messaggio ai seguenti destinatari o gruppi:",
        "Informazioni di diagnostica per gli amministratori:",
        "Server generatore:",
    ),
    "pt": (
        "Não é possível entregar: Order",
        "Falha na entrega a estes destinatários ou grupos:",
        "Informações de diagnóstico para administradores:",
        "Servidor de geração:",
    ),
    "nl": (
        "Onbestelbaar: Order",
        "Kan het bericht niet bezorgen aan de volgende geadresseerden of groepen:",
        "Diagnostische gegevens voor beheerders:",
        "Genererende server:",
    ),
    "pl": (
        "Niedostarczalne: Order",
        "Nie można dostarczyć do następujących adresatów lub grup:",
        "Informacje diagnostyczne dla administratorów:",
        "Serwer generujący:",
    ),
    "ru": (
        "Недоставленное: Order",
        "Сбой доставки следующим получателям или группам:",
        "Диагностические сведения для администраторов:",
        "Создающий сервер:",
    ),
    "ja": (
        "配信不能: Order",
        "次の受信者またはグループへの配信に失敗しました:",
        "管理者向けの診断情報:",
        "生成サーバー:",
    ),
    "zh": ("未送达: Order", "未能传递到下列收件人或组:", "管理员的诊断信息:", "正在生成服务器:"),
    "ko": (
        "배달되지 않음: Order",
        "다음 받는 사람 또는 그룹에 메시지를 배달하지 못했습니다.",
        "관리자용 진단 정보:",
        "생성 서버:",
    ),
    "sv": (
        "Det går inte att leverera: Order",
        "Det gick inte att leverera till följande mottagare eller grupper:",
        "Diagnostikinformation för administratörer:",
        "Genererande server:",
    ),
    "da": (
        "Kan ikke leveres: Order",
        "Levering mislykkedes til disse modtagere eller grupper:",
        "Diagnosticeringsoplysninger til administratorer:",
        "Genererende server:",
    ),
    "nb": (
        "Kan ikke leveres: Order",
        "Kan ikke levere til disse mottakerne eller gruppene:",
        "Diagnoseinformasjon for administratorer:",
        "Genererende server:",
    ),
    "fi": (
        "Ei voi toimittaa: Order",
        "Toimitus epäonnistui seuraaville vastaanottajille tai ryhmille:",
        "Järjestelmänvalvojien diagnostiikkatiedot:",
        "Luova palvelin:",
    ),
    "cs": (
        "Nedoručitelné: Order",
        "Doručení se nezdařilo pro tyto příjemce nebo skupiny:",
        "Diagnostické informace pro správce:",
        "Generující server:",
    ),
    "tr": (
        "Teslim edilemiyor: Order",
        "Bu alıcılara veya gruplara teslim edilemedi:",
        "Yöneticiler için tanılama bilgileri:",
        "Oluşturan sunucu:",
    ),
    "hu": (
        "Kézbesíthetetlen: Order",
        "Nem sikerült kézbesíteni a következő címzetteknek vagy csoportoknak:",
        "Diagnosztikai információ a rendszergazdáknak:",
        "Létrehozó kiszolgáló:",
    ),
    "el": (
        "Δεν ήταν δυνατή η παράδοση: Order",
        "Η παράδοση απέτυχε σε αυτούς τους παραλήπτες ή ομάδες:",
        "Διαγνωστικές πληροφορίες για διαχειριστές:",
        "Διακομιστής δημιουργίας:",
    ),
    "he": ("לא ניתן למסירה: Order", "המסירה נכשלה לנמענים או לקבוצות הבאים:", "מידע אבחון למנהלי מערכת:", "שרת יוצר:"),
    "ar": (
        "تعذر التسليم: Order",
        "فشل التسليم إلى هؤلاء المستلمين أو المجموعات:",
        "معلومات تشخيصية للمسؤولين:",
        "الخادم المنشئ:",
    ),
    "ro": (
        "Nelivrabil: Order",
        "Livrarea a eșuat către acești destinatari sau aceste grupuri:",
        "Informații de diagnosticare pentru administratori:",
        "Server generator:",
    ),
    "uk": (
        "Неможливо доставити: Order",
        "Не вдалося доставити таким одержувачам або групам:",
        "Діагностичні відомості для адміністраторів:",
        "Сервер, що створив:",
    ),
    "vi": (
        "Không thể gửi: Order",
        "Không gửi được tới những người nhận hoặc nhóm sau:",
        "Thông tin chẩn đoán cho người quản trị:",
        "Máy chủ tạo:",
    ),
    "th": ("ไม่สามารถส่งได้: Order", "การส่งไปยังผู้รับหรือกลุ่มเหล่านี้ล้มเหลว:", "ข้อมูลการวินิจฉัยสำหรับผู้ดูแลระบบ:", "เซิร์ฟเวอร์ที่สร้าง:"),
    "id": (
        "Tidak dapat terkirim: Order",
        "Pengiriman gagal ke penerima atau grup ini:",
        "Informasi diagnostik untuk administrator:",
        "Server yang menghasilkan:",
    ),
}


def report(subject: str, heading: str, diagnostics: str, server: str) -> bytes:
    return f"""From: postmaster@outlook.example
To: news@sender.example
Subject: {subject}
Date: Tue, 3 Mar 2026 09:05:00 +0000
Content-Type: text/plain; charset=utf-8

{heading}

gone@example.com
full@example.net

{diagnostics}

{server} AM0PR01.prod.outlook.com

gone@example.com
Remote Server returned '550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient gone@example.com not found'

full@example.net
mx.example.net
Remote Server returned '554 5.2.2 mailbox full'
""".encode()


@pytest.mark.parametrize("language", WORDS)
def test_localised_report(language: str) -> None:
    found = {f.recipient: (f.kind, f.cause, f.status) for f in classify_message(report(*WORDS[language]))}
    assert found == {
        "gone@example.com": (Kind.BOUNCE, Cause.MAILBOX_UNKNOWN, "5.1.10"),
        "full@example.net": (Kind.BOUNCE, Cause.MAILBOX_FULL, "5.2.2"),
    }
