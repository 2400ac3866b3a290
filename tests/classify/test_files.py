"""Messages from files and mailboxes, and the lines about them."""

from __future__ import annotations

import io
import json
import mailbox
import os
from pathlib import Path

import pytest

from mailecho.pipeline.classify.files import (
    MANY_BYTES,
    bytes_of,
    classify_paths,
    iter_messages,
    processes_for,
    run_classify,
)

SAMPLES = Path(__file__).parent.parent / "samples" / "reports"
FIELDS = (
    "file kind recipient status smtp_code action permanence cause cause_detail confidence rule_id feedback_type "
    "message_id reporting_mta remote_mta diagnostic"
)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with a message, an mbox of two, a maildir of one and an empty file."""
    (tmp_path / "a.eml").write_bytes((SAMPLES / "exim.eml").read_bytes())
    box = mailbox.mbox(tmp_path / "b.mbox")
    for name in ("qmail", "newsletter"):
        box.add((SAMPLES / f"{name}.eml").read_bytes())
    box.close()
    maildir = mailbox.Maildir(tmp_path / "c")
    maildir.add((SAMPLES / "arf.eml").read_bytes())
    maildir.close()
    (tmp_path / "d.eml").write_bytes(b"")
    return tmp_path


def test_messages_come_sorted_and_named(tree: Path) -> None:
    names = [name.removeprefix(str(tree)) for name, _ in iter_messages([str(tree)])]
    assert names[:3] == ["/a.eml", "/b.mbox:1", "/b.mbox:2"]
    assert names[3].startswith("/c/new/")
    assert names[4] == "/d.eml"


def test_a_single_message_with_a_separator_is_one_message(tmp_path: Path) -> None:
    file = tmp_path / "one.eml"
    file.write_bytes(b"From a@example.com Tue Mar  3 09:00:00 2026\nSubject: x\n\nFrom here on\n\nFrom you\n")
    assert [name for name, _ in iter_messages([str(file)])] == [str(file)]


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"Subject: x\n\nhi")))
    assert list(iter_messages(["-"])) == [("-", b"Subject: x\n\nhi")]


def test_an_mbox_on_standard_input(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = (tree / "b.mbox").read_bytes()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(box)))
    assert [name for name, _ in iter_messages(["-"])] == ["-:1", "-:2"]


def test_the_size_of_an_input_decides_how_many_processes_read_it(tree: Path) -> None:
    size = bytes_of([str(tree)])
    assert size == sum(file.stat().st_size for file in tree.rglob("*") if file.is_file())
    assert bytes_of([str(tree), "-"]) is None
    cores = len(os.sched_getaffinity(0))
    assert [processes_for(n) for n in (size, MANY_BYTES, None)] == [1, cores, 1]


def test_lines_have_the_documented_fields(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_classify([str(tree)], jsonl=True) == 1  # the empty file
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["kind"] for line in lines] == [
        "bounce",
        "bounce",
        "bounce",
        "not_feedback",
        "complaint",
        "complaint",
        "error",
    ]
    assert list(lines[0]) == FIELDS.split()
    assert lines[-1]["reason"] == "empty"


def test_readable_output(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_classify([str(tree / "a.eml")], jsonl=False) == 0
    line = capsys.readouterr().out
    assert "bounce recipient=someone@example.com status=4.2.2 cause=mailbox_full" in line
    assert line.endswith("permanence=transient\n")


def test_a_log_and_an_empty_directory_are_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_classify([str(tmp_path)], jsonl=True) == 0
    assert capsys.readouterr() == ("", "no message found\n")
    for name in ("mail.log", "events.jsonl"):
        (tmp_path / name).write_text("Sep 21 14:13:20 mx postfix/smtp[1]: status=sent\n")
    run_classify([str(tmp_path)], jsonl=True)
    said = capsys.readouterr()
    assert len(said.out.splitlines()) == 2
    assert "events.jsonl and 1 more" in said.err
    assert "mailecho intake files" in said.err


def test_processes_give_the_same_in_the_same_order(tree: Path) -> None:
    alone = list(classify_paths([str(tree)]))
    assert list(classify_paths([str(tree)], processes=2)) == alone
    assert sum(size for _, size in alone[:1]) == (tree / "a.eml").stat().st_size


def test_a_missing_path_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        list(iter_messages(["/does/not/exist"]))
