"""Complaints and unsubscriptions that are no ARF, brought into its fields.

Microsoft's feedback before 2026, SpamCop, ARF whose parts have lost their types, X-ARF, SES's notifications, and
mail to a List-Unsubscribe address (RFC 2369), by hand or by a program (Apple Mail's X-Apple-Unsubscribe).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mailecho.pipeline.classify import sns, xarf
from mailecho.pipeline.classify.arf import Told, feedback_type
from mailecho.pipeline.message.addresses import field_address
from mailecho.pipeline.message.headers import Headers

if TYPE_CHECKING:
    from mailecho.pipeline.classify.letter import Letter

_COMPLAINT = re.compile(r"complaint about (?:a )?message from[ :]+\[?([0-9a-f.:]{3,45})", re.I)
_FIELDS = re.compile(r"(?im)^[ \t>]{0,3}feedback-type[ \t]*:")
_QUOTES = re.compile(r"(?m)^[ \t>]{1,3}")

#: A message of nothing but this and a code, in its subject, asks to be taken off. By language.
_OFF = re.compile(
    r"(?:re: ?|fwd?: ?)?(?:please |bitte )?(?:list-?)?"
    r"(?:unsubscri(?:be|ption)(?: (?:me|request))?|opt[ -]?out|remove(?: me)?|"
    r"abmeld(?:en|ung)|abbestellen|austragen|d[ée]sinscription|d[ée]sabonnement|se d[ée]sabonner|"
    r"(?:dar(?:me)? de )?baja|cancelar (?:la )?(?:suscripci[oó]n|assinatura|inscri[cç][aã]o)|descadastrar|"
    r"disiscri(?:zione|vimi)|cancellami|annulla iscrizione|afmelden|uitschrijven|wypisz(?: mnie)?|rezygnacja|"
    r"avregistrera|avmeld(?:ing)?|afmeld(?:ing)?|peruuta tilaus|odhl[aá]sit|leiratkoz[aá]s|dezabonare|"
    r"отписаться|отписка|отпишите меня|відписатися|διαγραφή|abonelikten çık|"
    r"退订|退訂|取消订阅|取消訂閱|配信停止|配信解除|登録解除|수신 ?거부|구독 ?취소)"
    r"(?: from (?:this |the |your )?(?:mailing ?)?list)?(?:[ :=\[(_+/-]+\S{0,300})?[.! ]*",
)
_UNSUBSCRIBE_BOX = re.compile(r"(?:list-?)?(?:unsub(?:scribe)?|opt-?out|leave|remove|signoff|abmelden)(?:$|[-+._=])")
#: By a program, or by a person who has nothing else to say: more words are a letter that someone must read.
_FEW_WORDS = 300


def read(letter: Letter) -> Told | None:
    """The complaint or unsubscription in a message of another form, None where it is none."""
    found = _COMPLAINT.search(letter.subject)
    if found and ("staff@hotmail" in letter.sender or letter.enclosed is not None):
        return Told(Headers(f"Source-IP: {found[1]}"), "abuse")
    if "x-spamcop-sourceip" in letter.headers:
        return Told(Headers(f"Source-IP: {letter.headers.first('x-spamcop-sourceip')}"), "abuse")
    return _in_text(letter) or xarf.read(letter) or sns.read_complaint(letter) or _unsubscription(letter)


def _in_text(letter: Letter) -> Told | None:
    """ARF whose machine part is of another type, or stands in the words."""
    report = "ultipart/report" in letter.headers.first("content-type")
    if not report and letter.enclosed is None:
        return None
    for part in letter.mail.parts:
        if part.returned:
            break
        if not part.type.startswith(("text/", "application/octet", "message/")):
            continue
        if "eedback-" not in part.raw and "content-transfer-encoding" not in part.headers:
            continue  # most parts: nothing to decode and to search
        text = part.text()[:100_000]
        found = _FIELDS.search(text)
        if found is None:
            continue
        block = text[found.start() :].strip()
        fields = Headers(_QUOTES.sub("", block) if ">" in found[0] else block.lstrip())
        if "user-agent" in fields or "version" in fields:
            return Told(fields, feedback_type(fields))
    return None


def _unsubscription(letter: Letter) -> Told | None:
    """Mail to a List-Unsubscribe address: it is about who wrote it."""
    headers = letter.headers
    apple = headers.first("x-apple-unsubscribe").lower() == "true"
    to_box = _UNSUBSCRIBE_BOX.match(field_address(headers.first("to")).lower()) is not None
    asked = _OFF.fullmatch(letter.subject[:500].strip()) is not None
    if not (apple or to_box or asked):
        return None
    sender = field_address(headers.first("from"))
    if not sender:
        return None
    told = Told(Headers(), "opt-out", Headers(), sender)
    if apple:
        return told
    if "list-id" in headers or "list-unsubscribe" in headers:
        return None  # said to a list, and no list's own mail
    if headers.first("auto-submitted").lower().startswith("auto") or letter.enclosed is not None:
        return None  # an absence note of who reads the box, a report
    words = len(" ".join(letter.text.split()))
    if asked and words <= (_FEW_WORDS if to_box else 120):
        return told
    return told if to_box and not letter.subject.strip() and words <= 40 else None
