"""The scanner: headers, parts and text of well-formed and of broken messages."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailecho.pipeline.message.addresses import field_address, find_addresses, unwrapped
from mailecho.pipeline.message.body import html_text
from mailecho.pipeline.message.headers import Headers, decoded
from mailecho.pipeline.message.scan import NotAMessage, read_mail

TWO_PARTS = b"""From: a@example.com
Content-Type: multipart/mixed;
  boundary="b"

preamble
--b
Content-Type: text/plain

first
--b
Content-Type: multipart/alternative; boundary="bb"

--bb

second
--bb--
--b
Content-Type: message/rfc822

Subject: inner

third
--b--
epilogue
"""


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_parts_in_order_with_any_line_ends(end: bytes) -> None:
    mail = read_mail(TWO_PARTS.replace(b"\n", end))
    assert [part.type for part in mail.parts] == ["text/plain", "text/plain", "message/rfc822"]
    assert [part.text().strip() for part in mail.parts[:2]] == ["first", "second"]
    assert mail.parts[2].returned
    assert "third" in mail.parts[2].raw


def test_headers_are_unfolded_and_found_by_name() -> None:
    headers = Headers("Subject: one\n two\nX-A: 1\nX-A: 2\nEmpty:\nDate: now")
    assert headers.first("subject") == "one two"
    assert headers.all("x-a") == ["1", "2"]
    assert headers.first("empty", "default") == ""
    assert headers.first("none", "default") == "default"
    assert "date" in headers
    assert "ate" not in headers


def test_encoded_words_are_decoded_and_raw_bytes_repaired() -> None:
    assert decoded("=?utf-8?b?5pel5pys?= =?iso-8859-1?q?caf=E9?=").replace(" ", "") == "日本café"
    assert decoded(b"caf\xe9".decode("utf-8", "surrogateescape")) == "café"
    assert decoded("=?x-nothing?q?abc?=")  # an unknown charset gives something, and raises nothing


def test_transfer_encodings_and_charsets() -> None:
    body = base64.encodebytes("Postfach überfüllt".encode("latin-1"))
    mail = read_mail(
        b"Subject: x\nContent-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: base64\n\n" + body
    )
    assert mail.parts[0].text() == "Postfach überfüllt"
    quoted = read_mail(b"Subject: x\nContent-Transfer-Encoding: quoted-printable\n\nf=C3=BCr a=\nlle")
    assert quoted.parts[0].text() == "für alle"


def test_a_multipart_without_parts_is_its_body() -> None:
    mail = read_mail(b'Subject: x\nContent-Type: multipart/report; boundary="never"\n\nStatus: 5.1.1\n')
    assert [part.text().strip() for part in mail.parts] == ["Status: 5.1.1"]


def test_a_boundary_in_another_form_goes_to_flanker() -> None:
    raw = (
        b"Content-Type: multipart/mixed; boundary*=us-ascii''x%2Dy\n\n--x-y\nContent-Type: text/plain\n\nhi\n--x-y--\n"
    )
    assert "hi" in "".join(part.text() for part in read_mail(raw).parts)


@pytest.mark.parametrize("raw", [b"", b"\r\n \n", b"\0\0\0\0", bytes(range(32)) * 40])
def test_what_cannot_be_a_message(raw: bytes) -> None:
    with pytest.raises(NotAMessage):
        read_mail(raw)


@given(st.binary(max_size=2000))
def test_any_bytes_give_a_mail_or_are_refused(raw: bytes) -> None:
    try:
        mail = read_mail(raw)
    except NotAMessage:
        return
    assert mail.parts
    for part in mail.parts:
        part.text()


def test_html_gives_its_words() -> None:
    page = (
        "<html><head><title>no</title></head><body><p>Mail to &lt;a@example.com&gt;<br>failed</p><script>x()</script>"
    )
    assert html_text(page).split("\n")[-2:] == ["failed", " x()".strip()] or "failed" in html_text(page)
    assert "no" not in html_text(page).split()
    assert "<a@example.com>" in html_text("to <a@example.com> failed")


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("rfc822; user@example.com", "user@example.com"),
        ("User <user@example.com>", "user@example.com"),
        ("@relay.example:user@example.com", "user@example.com"),
        ('"odd user"@example.com', '"odd user"@example.com'),
        ("user@example.com (a comment)", "user@example.com"),
        ("nobody", ""),
    ],
)
def test_address_fields(value: str, address: str) -> None:
    assert field_address(value) == address


def test_addresses_in_text() -> None:
    text = "<a@example.com>: and b@example.org. See mailto:c@example.net, not @home or x@"
    assert find_addresses(text) == ["a@example.com", "b@example.org", "c@example.net"]


@pytest.mark.parametrize(
    ("wrapped", "address"),
    [
        ("SRS0=Ab1c=XY=example.com=someone@forwarder.example", "someone@example.com"),
        ("SRS0+Ab1c=XY=example.com=some=one@forwarder.example", "some=one@example.com"),
        ("SRS1=Hh2k=relay.example==Ab1c=XY=example.com=someone@forwarder.example", "someone@example.com"),
        ("prvs=0123456789=someone@example.com", "someone@example.com"),
        ("prvs=someone/0123456789@example.com", "someone@example.com"),
        ("prvs=not-a-tag=someone@example.com", "prvs=not-a-tag=someone@example.com"),
        ("srs-team@example.com", "srs-team@example.com"),
        ("someone@example.com", "someone@example.com"),
    ],
)
def test_addresses_inside_srs_and_batv(wrapped: str, address: str) -> None:
    assert unwrapped(wrapped) == address
