"""Files, pipes, maildirs and mboxes become records."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mailecho.pipeline.intake import (
    IntakeError,
    RawRecord,
    Skipped,
    Tags,
    file_records,
    maildir_records,
    mbox_records,
)
from mailecho.schemas.topics import BATCH_BYTES, RAW_ARF, RAW_DELIVERY, RAW_DSN, RAW_RECORD_BYTES
from tests.intake.messages import dsn

ARF = b"Content-Type: multipart/report; report-type=feedback-report; boundary=x\n\n--x--\n"


def records(items: object) -> list[RawRecord]:
    found = list(items)  # type: ignore[call-overload]
    assert all(isinstance(item, RawRecord) for item in found), found
    return found


def header(record: RawRecord, name: str) -> str | None:
    return {k: v.decode() for k, v in record.headers}.get(name)


def test_a_directory_in_order(tmp_path: Path) -> None:
    for name, data in {
        "b/2.eml": dsn(),
        "a/1.eml": ARF,
        "a/mail.log": b"one\ntwo\n",
        "a/mail.log.1": b"three",
        "c/hook.json": b'[{"a":1}]',
        "c/rows.jsonl": b"{}\n",
        "c/empty": b"",
        ".git/config": b"x",
        "a/.hidden": b"x",
    }.items():
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(data)
    found = records(file_records([tmp_path], Tags(tenant="acme")))
    assert [(r.topic, header(r, "file"), r.value) for r in found] == [
        (RAW_ARF, f"{tmp_path}/a/1.eml", ARF),
        (RAW_DELIVERY, f"{tmp_path}/a/mail.log", b"one\ntwo\n"),
        (RAW_DELIVERY, f"{tmp_path}/a/mail.log.1", b"three"),
        (RAW_DSN, f"{tmp_path}/b/2.eml", dsn()),
        (RAW_DSN, f"{tmp_path}/c/empty", b""),
        (RAW_DELIVERY, f"{tmp_path}/c/hook.json", b'[{"a":1}]'),
        (RAW_DELIVERY, f"{tmp_path}/c/rows.jsonl", b"{}\n"),
    ]
    assert {header(r, "tenant") for r in found} == {"acme"}
    assert {header(r, "source") for r in found} == {None}


def test_a_source_makes_any_file_a_log(tmp_path: Path) -> None:
    file = tmp_path / "messages"
    file.write_bytes(b"line\n")
    (record,) = records(file_records([file], Tags(source="postfix")))
    assert (record.topic, header(record, "source")) == (RAW_DELIVERY, "postfix")
    (record,) = records(file_records([file], topic=RAW_ARF))
    assert record.topic == RAW_ARF


def test_log_chunks_hold_whole_lines(tmp_path: Path) -> None:
    file = tmp_path / "mail.log"
    lines = [b"%06d " % n + b"x" * (n % 300) for n in range(8_000)]
    file.write_bytes(b"\n".join(lines))
    found = records(file_records([file]))
    assert len(found) > 3
    assert all(len(r.value) <= 2 * BATCH_BYTES for r in found)
    assert [line for r in found for line in r.value.splitlines()] == lines


def test_an_overlong_line_is_cut_and_the_others_stay(tmp_path: Path) -> None:
    file = tmp_path / "mail.log"
    file.write_bytes(b"first\n" + b"x" * (5 * RAW_RECORD_BYTES) + b"\nlast\n")
    found = records(file_records([file]))
    assert all(len(r.value) <= RAW_RECORD_BYTES for r in found)
    assert found[0].value == b"first\n"
    assert found[-1].value == b"last\n"
    assert int(header(found[1], "original-size") or 0) > RAW_RECORD_BYTES


def test_a_large_message_is_cut(tmp_path: Path) -> None:
    file = tmp_path / "big.eml"
    message = dsn(3_000_000)
    file.write_bytes(message)
    (record,) = records(file_records([file]))
    assert len(record.value) < RAW_RECORD_BYTES
    assert header(record, "original-size") == str(len(message))
    assert record.was_cut


def test_what_is_missing_is_named_before_anything_is_sent(tmp_path: Path) -> None:
    with pytest.raises(IntakeError, match="nothing-here"):
        file_records([tmp_path, tmp_path / "nothing-here"])


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_passed(tmp_path: Path) -> None:
    (tmp_path / "a.eml").write_bytes(dsn())
    (tmp_path / "b.eml").write_bytes(dsn())
    (tmp_path / "a.eml").chmod(0)
    skipped, record = file_records([tmp_path])
    assert isinstance(skipped, Skipped)
    assert isinstance(record, RawRecord)


_PIPE = """
import sys
from mailecho.pipeline.intake import Tags, file_records
for record in file_records(["-"], Tags(source=sys.argv[1])):
    if record is not None:
        print(record.topic, record.value, flush=True)
"""


def test_a_log_on_a_pipe_is_sent_as_it_comes() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PIPE, "postfix"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for line in (b"one\n", b"two\n"):
            process.stdin.write(line)
            process.stdin.flush()
            # the answer comes while the pipe is still open
            assert process.stdout.readline() == f"{RAW_DELIVERY} {line!r}\n".encode()
        process.stdin.write(b"half")
        process.stdin.close()
        assert process.stdout.readline() == f"{RAW_DELIVERY} {b'half'!r}\n".encode()


def test_a_mail_on_a_pipe() -> None:
    done = subprocess.run([sys.executable, "-c", _PIPE, ""], input=dsn(), capture_output=True, check=True)
    assert done.stdout.startswith(RAW_DSN.encode())
    assert done.stdout.count(b"\n") == 1


def test_maildir_moves_what_is_acknowledged(tmp_path: Path) -> None:
    for folder in ("new", "cur", "tmp"):
        (tmp_path / folder).mkdir()
    for name in ("2.b", "1.a", "3.c"):
        (tmp_path / "new" / name).write_bytes(dsn())
    (tmp_path / "cur" / "0.old:2,S").write_bytes(dsn())
    found = records(maildir_records(tmp_path))
    assert [Path(header(r, "file") or "").name for r in found] == ["1.a", "2.b", "3.c"]
    for record in found[:2]:
        assert record.acknowledged is not None
        record.acknowledged()
    assert sorted(os.listdir(tmp_path / "new")) == ["3.c"]
    assert sorted(os.listdir(tmp_path / "cur")) == ["0.old:2,S", "1.a:2,", "2.b:2,"]
    (tmp_path / "new" / "3.c").unlink()
    assert found[2].acknowledged is not None
    found[2].acknowledged()  # another program was faster
    with pytest.raises(IntakeError, match="no maildir"):
        maildir_records(tmp_path / "new")


@pytest.mark.parametrize("eol", ["\n", "\r\n"])
def test_mbox(tmp_path: Path, eol: str) -> None:
    first = f"Subject: 1{eol}{eol}From what I know it is 12:30.{eol}>From the heart{eol}{eol}From nowhere{eol}{eol}"
    second = f"Subject: 2{eol}{eol}text{eol}"
    separator = f"From MAILER-DAEMON Sun Mar  1 10:20:30 2026{eol}"
    file = tmp_path / "in.mbox"
    file.write_bytes((separator + first + separator + second).encode())
    found = records(mbox_records(file))
    assert [r.value for r in found] == [first.encode(), second.encode()]
    assert header(found[1], "file") == f"{file}:2"
    file.write_bytes(b"Subject: no mbox\n\n")
    with pytest.raises(IntakeError, match="no mbox"):
        mbox_records(file)
