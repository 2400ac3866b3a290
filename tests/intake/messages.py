"""Reports of any size, written for the tests of intake."""

from __future__ import annotations

STATUS = (
    "Reporting-MTA: dns; mx1.example.org\n"
    "\n"
    "Final-Recipient: rfc822; gone@example.com\n"
    "Action: failed\n"
    "Status: 5.1.1\n"
    "Diagnostic-Code: smtp; 550 5.1.1 User unknown\n"
)


def dsn(body_size: int = 0, text_size: int = 0, status: str = STATUS, eol: str = "\n") -> bytes:
    """A bounce that returns a message with a body of `body_size` bytes."""
    text = (
        "From: MAILER-DAEMON@mx1.example.org\n"
        "To: bounce@example.org\n"
        "Subject: Undelivered Mail\n"
        "MIME-Version: 1.0\n"
        "Content-Type: multipart/report; report-type=delivery-status;\n"
        '\tboundary="b1"\n'
        "\n"
        "This is a MIME message.\n"
        "\n"
        "--b1\n"
        "Content-Type: text/plain\n"
        "\n"
        "Your mail could not be delivered.\n"
        + "Sorry. " * (text_size // 7)
        + "\n"
        "--b1\n"
        "Content-Type: message/delivery-status\n"
        "\n" + status + "\n"
        "--b1\n"
        "Content-Type: message/rfc822\n"
        "\n"
        "From: news@example.org\n"
        "To: gone@example.com\n"
        "Message-ID: <ours@example.org>\n"
        "Content-Type: multipart/mixed; boundary=b2\n"
        "\n"
        "--b2\n"
        "Content-Type: application/octet-stream\n"
        "Content-Transfer-Encoding: base64\n"
        "\n" + ("QUJD" * 19 + "\n") * (body_size // 77) + "--b2--\n"
        "\n"
        "--b1--\n"
    )  # fmt: skip
    return text.replace("\n", eol).encode()
