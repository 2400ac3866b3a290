"""A message that is too large keeps what a classifier reads."""

from __future__ import annotations

import email
import email.message

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailecho.pipeline.intake.cut import cut_message
from tests.intake.messages import STATUS, dsn

LIMIT = 8 * 1024


def parts(message: bytes) -> dict[str, email.message.Message]:
    parsed = email.message_from_bytes(message)
    for part in parsed.walk():
        assert not part.defects, (part.get_content_type(), part.defects)
    return {part.get_content_type(): part for part in parsed.walk()}


def test_what_fits_stays_as_it_is() -> None:
    message = dsn(100)
    assert cut_message(message, LIMIT) == (message, None)
    assert cut_message(b"", LIMIT) == (b"", None)


@pytest.mark.parametrize("eol", ["\n", "\r\n"])
def test_the_returned_body_goes_and_the_report_stays(eol: str) -> None:
    message = dsn(body_size=100_000, eol=eol)
    cut, size = cut_message(message, LIMIT)
    assert size == len(message)
    assert len(cut) < 2_000
    found = parts(cut)
    status = found["message/delivery-status"].get_payload()
    assert isinstance(status, list)
    assert status[1]["Final-Recipient"] == "rfc822; gone@example.com"
    assert b"could not be delivered" in cut
    assert b"Message-ID: <ours@example.org>" in cut
    assert b"QUJD" not in cut
    assert cut.endswith(f"--b1--{eol}".encode())


def test_carriage_returns_only() -> None:
    message = dsn(body_size=100_000, eol="\r")
    cut, _ = cut_message(message, LIMIT)
    assert STATUS.replace("\n", "\r").encode() in cut
    assert b"Message-ID: <ours@example.org>" in cut
    assert b"QUJD" not in cut
    assert cut.endswith(b"--b1--\r")


def test_a_long_text_part_does_not_push_the_report_out() -> None:
    cut, _ = cut_message(dsn(body_size=100_000, text_size=200_000), LIMIT)
    assert STATUS.encode() in cut
    assert b"Message-ID: <ours@example.org>" in cut
    assert b"could not be delivered" in cut


def test_a_report_larger_than_the_limit_keeps_its_beginning() -> None:
    many = "Reporting-MTA: dns; mx1.example.org\n\n" + "".join(
        f"Final-Recipient: rfc822; user{n}@example.com\nAction: failed\nStatus: 5.1.1\n\n" for n in range(10_000)
    )
    cut, _ = cut_message(dsn(1000, status=many), LIMIT)
    assert len(cut) <= LIMIT
    assert cut.count(b"Final-Recipient") > 50
    assert b"Message-ID: <ours@example.org>" in cut
    assert cut.endswith(b"--b1--\n")


def test_a_report_in_base64_stays_decodable() -> None:
    encoded = "\n".join(["UmVwb3J0aW5nLU1UQTogZG5zOyBteDEuZXhhbXBsZS5vcmcK"] * 400)
    message = dsn(100_000).replace(
        b"Content-Type: message/delivery-status\n\n" + STATUS.encode(),
        b"Content-Type: message/delivery-status\nContent-Transfer-Encoding: base64\n\n" + encoded.encode() + b"\n",
    )
    cut, _ = cut_message(message, LIMIT)
    start = cut.index(b"UmVwb3J0")
    body = cut[start : cut.index(b"--b1", start)]
    assert len(body) > 1_000
    assert all(len(line) in (0, 48) for line in body.split(b"\n"))


def test_a_forwarded_report_is_found_inside() -> None:
    inner = dsn(body_size=100_000)
    outer = (
        b'From: a@example.org\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="outer"\n\n'
        b"--outer\nContent-Type: text/plain\n\nSee below.\n"
        b"--outer\nContent-Type: message/rfc822\n\n" + inner + b"\n--outer--\n"
    )
    cut, _ = cut_message(outer, LIMIT)
    assert len(cut) <= LIMIT
    assert STATUS.encode() in cut
    assert b"QUJD" not in cut
    assert cut.endswith(b"--outer--\n")
    parts(cut)


def test_a_giant_header_keeps_how_to_read_the_body() -> None:
    message = b"".join(b"Received: from relay%d.example.net\n" % n for n in range(5_000)) + dsn(50_000)
    cut, _ = cut_message(message, LIMIT)
    assert len(cut) <= LIMIT
    assert STATUS.encode() in cut
    parts(cut)


def test_no_mime_keeps_the_first_bytes() -> None:
    message = b"Subject: failure\n\n" + b"Hi. This is the mail program.\n" * 10_000
    cut, size = cut_message(message, LIMIT)
    assert message.startswith(cut)
    assert len(cut) > LIMIT - 100
    assert size == len(message)
    noise = bytes(range(256)) * 1_000
    assert cut_message(noise, LIMIT) == (noise[:LIMIT], len(noise))


def _mb(count: int, unit: bytes) -> bytes:
    return unit * (count * 1_000_000 // len(unit))


_HEAD = b"Content-Type: multipart/mixed; boundary=b\n\n"


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(dsn(100_000_000), id="100 MB returned"),
        pytest.param(_HEAD + _mb(50, b"--b\n"), id="delimiters only"),
        pytest.param(_HEAD + _mb(50, b"x--b"), id="delimiters inside lines"),
        pytest.param(_HEAD + b"--b\n" + _mb(50, b"\n"), id="blank lines"),
        pytest.param(_mb(50, b"X: y\n"), id="header without end"),
        pytest.param(_mb(50, b"\r"), id="carriage returns"),
        pytest.param(b"Content-Type: " + _mb(50, b" "), id="spaces"),
        pytest.param(b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n) for n in range(200_000)), id="nested"),  # noqa: E501
        pytest.param(_mb(20, b"Content-Type: message/rfc822\n\n"), id="nested messages"),
    ],
)  # fmt: skip
def test_large_and_odd(message: bytes) -> None:
    cut, size = cut_message(message)
    assert len(cut) <= 1024 * 1024
    assert size == len(message)


_pieces = st.sampled_from(
    [
        b"Content-Type: multipart/report; boundary=b\n",
        b'Content-Type: multipart/mixed;\r\n boundary="c d"\r\n',
        b"Content-Type: message/rfc822\n",
        b"Content-Type: message/delivery-status\n",
        b"Content-Transfer-Encoding: base64\n",
        b"\n",
        b"\r\n",
        b"\r",
        b"--b\n",
        b"--b--\n",
        b"\r\n--c d\r\n",
        b"--c d--",
        b"x" * 300,
        b"Final-Recipient: rfc822; a@example.com\n",
    ]
)


@given(st.lists(_pieces | st.binary(max_size=30), max_size=60).map(b"".join), st.integers(1, 3_000))
def test_any_bytes(message: bytes, limit: int) -> None:
    cut, size = cut_message(message, limit)
    assert len(cut) <= limit
    assert size == (len(message) if len(message) > limit else None)
    assert cut_message(message, limit) == (cut, size)
    assert cut_message(cut, limit) == (cut, None)
    if message and not cut:
        raise AssertionError("nothing is left")
