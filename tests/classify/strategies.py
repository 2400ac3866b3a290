"""Hypothesis strategies: reports put together from well-formed and from broken pieces."""

from __future__ import annotations

import base64
import quopri

from hypothesis import strategies as st

#: Local parts and domains that reports hold, odd ones too.
addresses = st.builds(
    "{}@{}".format,
    st.sampled_from(("someone", "some.one+tag", "o'neil", "a/b", "=x", "日本", "SRS0=a=b=example.com=x", '"q q"')),
    st.sampled_from(("example.com", "EXAMPLE.NET", "例え.example", "[192.0.2.1]", "a_b.example.org")),
)
statuses = st.builds("{}.{}.{}".format, st.sampled_from("245"), st.integers(0, 9), st.integers(0, 999))
replies = st.builds(
    "{}{}{} {}".format,
    st.sampled_from(("421", "450", "550", "554", "250", "999", "")),
    st.sampled_from((" ", "-", "", "\n ")),
    st.one_of(statuses, st.just("")),
    st.one_of(st.sampled_from(("user unknown", "mailbox full", "利用停止", "spam", "")), st.text(max_size=80)),
)


@st.composite
def recipient_groups(draw: st.DrawFn) -> tuple[str, str]:
    """(address, fields) of one recipient of a delivery status."""
    address = draw(addresses)
    kind = draw(st.sampled_from(("rfc822", "RFC822", "utf-8", "x400", "")))
    fields = [f"Final-Recipient: {kind + ';' if kind else ''} {address}"]
    if draw(st.booleans()):
        fields.append(f"Action: {draw(st.sampled_from(('failed', 'delayed', 'delivered', 'FAILED (x)', '?')))}")
    if draw(st.booleans()):
        fields.append(f"Status: {draw(statuses)}")
    if draw(st.booleans()):
        text = draw(replies).replace("\n", "\n ")
        fields.append(f"Diagnostic-Code: smtp; {text}")
    return address, "\n".join(fields)


@st.composite
def reports(draw: st.DrawFn) -> bytes:
    """A report in the structure of RFC 3464, more or less: encodings, line ends and boundaries vary."""
    groups = [fields for _, fields in draw(st.lists(recipient_groups(), min_size=0, max_size=4))]
    status = ("Reporting-MTA: dns; mx.example.org\n\n" + draw(st.sampled_from(("\n\n", "\n"))).join(groups)).encode()
    encoding = draw(st.sampled_from(("7bit", "8bit", "base64", "quoted-printable", "x-odd", "")))
    if encoding == "base64":
        status = base64.encodebytes(status)
    elif encoding == "quoted-printable":
        status = quopri.encodestring(status)
    mark = draw(st.sampled_from((b"b", b"=_x", b"b b", b"")))
    words = draw(st.one_of(replies, st.text(max_size=300))).encode("utf-8", "replace")
    part_type = draw(st.sampled_from((b"message/delivery-status", b"message/global-delivery-status", b"text/plain")))
    closing = b"\n--" + mark + b"--\n" if draw(st.booleans()) else b""
    raw = (
        b"From: " + draw(addresses).encode() + b"\nSubject: " + draw(st.text(max_size=40)).encode("utf-8", "replace")
        + b'\nContent-Type: multipart/report; report-type=delivery-status; boundary="' + mark + b'"\n\n'
        + b"\n--" + mark + b"\nContent-Type: text/plain\n\n" + words
        + b"\n--" + mark + b"\nContent-Type: " + part_type
        + b"\nContent-Transfer-Encoding: " + encoding.encode() + b"\n\n" + status
        + b"\n--" + mark + b"\nContent-Type: message/rfc822\n\nMessage-ID: <order-1@sender.example>\n\nhello" + closing
    )  # fmt: skip
    return raw.replace(b"\n", draw(st.sampled_from((b"\n", b"\r\n", b"\r"))))
