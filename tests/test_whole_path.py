"""Files to SQL and to the lookup, on one real system: hostile input, a second feed, and `verify` that can see.

The tests run in the order of the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest

from mailecho.pipeline.config import load
from mailecho.pipeline.landing.database import write_client
from tests.faults.generator import arf, dsn
from tests.system import System, until

pytestmark = [pytest.mark.kafka, pytest.mark.clickhouse, pytest.mark.timeout(300)]

NOW = datetime.now(UTC).replace(microsecond=0)
HARD = "550 5.1.1 User unknown"


@pytest.fixture(scope="module")
def system(kafka_jars: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    system = System(tmp_path_factory.mktemp("whole"))
    system.start()
    yield system
    system.end()


@pytest.fixture(scope="module")
def mails(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of what a bounce mailbox may hold, and worse."""
    directory = tmp_path_factory.mktemp("mails")
    bounce = dsn("gone@example.org", HARD, "5.1.1", "m1@mail.example.com", NOW - timedelta(hours=2))
    old = dsn("old@example.org", HARD, "5.1.1", "m2@mail.example.com", datetime(1997, 1, 1, tzinfo=UTC))
    last = b"\r\n\r\n--4Xq/mx1.example.com--"
    whole = bounce.replace(b"Content-Type: text/rfc822-headers", b"Content-Type: message/rfc822")
    files = {
        "bounce.eml": bounce,
        "complaint.eml": arf("angry@example.org", "m3@mail.example.com", NOW - timedelta(hours=1)),
        "old.eml": old,
        "no-date.eml": bounce.replace(b"gone@", b"undated@").replace(b"Date:", b"X-Nothing:"),
        "mad-date.eml": bounce.replace(b"gone@", b"mad@").replace(b" 20", b" 10"),
        "cr-only.eml": bounce.replace(b"gone@", b"cr@").replace(b"\r\n", b"\r"),
        "lf-only.eml": bounce.replace(b"gone@", b"lf@").replace(b"\r\n", b"\n"),
        "empty.eml": b"",
        "blank.eml": b"\r\n\r\n  \r\n",
        "nul.eml": b"\0" * 10_000,
        "noise.eml": bytes(range(256)) * 400,
        "bad-utf8.eml": bounce.replace(b"gone@", b"b\xff\xfe\xc3d@"),
        "huge.eml": whole.replace(b"gone@", b"huge@").replace(last, b"\r\n\r\n" + b"A" * 76 * 690_000 + last[2:]),
        "long-line.eml": b"Subject: " + b"x" * 3_000_000 + b"\r\n\r\nbody",
        "endless-header.eml": b"".join(b"X-%d: y\r\n" % n for n in range(100_000)) + b"\r\n",
        "nested.eml": nested(1000),
        "plain.eml": b"From: a@example.org\r\nTo: b@example.com\r\nSubject: lunch?\r\n\r\nAt noon?\r\n",
    }  # fmt: skip
    assert len(files["huge.eml"]) > 50_000_000
    for name, data in files.items():
        (directory / name).write_bytes(data)
    return directory


def nested(depth: int) -> bytes:
    head = [b"From: a@example.org\r\nSubject: deep\r\nMIME-Version: 1.0\r\n"]
    head += [b'Content-Type: multipart/mixed; boundary="b%d"\r\n\r\n--b%d\r\n' % (n, n) for n in range(depth)]
    return b"".join(head) + b"Content-Type: text/plain\r\n\r\nbottom\r\n"


def settled(system: System, raw: int) -> dict[str, Any]:
    status: dict[str, Any] = {}

    def still() -> bool:
        nonlocal status
        status = system.status()
        return bool(status["raw"] == raw and status["balanced"] and not any(status["lag"].values()))

    until(still)
    return status


def test_every_message_is_accounted_for(system: System, mails: Path) -> None:
    system.ok("intake", "files", str(mails))
    count = len(list(mails.iterdir()))
    status = settled(system, count)
    assert status["classified"] == status["duplicates"] + status["events"] + status["late"] + status["commands"]
    assert status["events"] == status["landed"] + status["rejected"]
    assert (status["rejected"], status["late"]) == (0, 0)
    assert status["dead_letters"] >= 2  # the empty and the blank one at least
    assert status["events"] - status["not_feedback"] >= 9
    report = orjson.loads(system.ok("verify", "--from-raw", "--json"))
    assert report["differences"] == []
    assert report["raw_records"] == count


def test_sql_shows_them_and_the_lookup_denies_with_evidence(system: System) -> None:
    found = system.ok("sql", "SELECT kind, cause, count() FROM events GROUP BY ALL ORDER BY 3 DESC", "--format", "TSV")
    counts = {tuple(line.split("\t")[:2]): int(line.split("\t")[2]) for line in found.splitlines()}
    assert counts["bounce", "mailbox_unknown"] >= 7
    assert counts["complaint", ""] == 1
    for address in ("gone", "cr", "lf", "old", "undated", "mad", "huge"):
        said = orjson.loads(system.ok("suppressions", "check", f"{address}@example.org", "--json"))
        answer = said[0] if isinstance(said, list) else said
        assert answer["allowed"] is False, address
        assert answer["reason"] == "hard_bounce"
        assert len(answer["evidence"]["event_ids"]) == 1
    said = orjson.loads(system.ok("suppressions", "check", "someone-else@example.org", "--json"))
    answer = said[0] if isinstance(said, list) else said
    assert answer["allowed"] is True


def test_a_second_feed_adds_nothing_and_counts_the_duplicates(system: System, mails: Path) -> None:
    before = system.status()
    system.ok("intake", "files", str(mails))
    after = settled(system, 2 * before["raw"])
    assert after["events"] == before["events"]
    assert after["duplicates"] == before["duplicates"] + before["classified"] - before["commands"]


def test_what_was_cut_says_so(system: System) -> None:
    listed = system.ok(
        "sql",
        "SELECT count() FROM events WHERE recipient_domain = 'example.org' AND kind = 'bounce'",
        "--format",
        "TSV",
    )
    assert int(listed) >= 7


def test_verify_sees_straight_while_things_go_in(system: System, tmp_path: Path) -> None:
    line = b'{"kind":"delivery","occurred_at":%d,"recipient":"live%d@example.net","id":"live%d"}\n'
    log = tmp_path / "log.jsonl"
    log.write_bytes(b"".join(line % (NOW.timestamp() - n, n % 500, n) for n in range(30_000)))
    feeding = system.spawn("intake", "files", str(log), "--source", "mailecho")
    try:
        for _ in range(3):
            report = orjson.loads(system.ok("verify", "--from-raw", "--json"))
            assert report["differences"] == []
    finally:
        assert feeding.wait(60) == 0
    report = orjson.loads(system.ok("verify", "--json"))
    assert report["differences"] == []
    assert report["events"] >= 30_000


def test_verify_finds_what_is_planted(system: System) -> None:
    client = write_client(load(system.data))
    row = client.query("SELECT toString(event_id) FROM events WHERE kind = 'complaint'").result_rows[0][0]
    try:
        # a row again, past the views' and the table's deduplication
        client.command("INSERT INTO events SELECT * FROM events WHERE kind = 'complaint'")
        ran = system.run("verify", "--json")
        differences = orjson.loads(ran.stdout)["differences"]
        assert ran.returncode == 1
        assert any(row in line and "more than once" in line for line in differences)
        client.command(f"ALTER TABLE events DELETE WHERE event_id = '{row}' SETTINGS mutations_sync = 2")
        ran = system.run("verify", "--json")
        differences = orjson.loads(ran.stdout)["differences"]
        assert any(row in line and "missing" in line for line in differences)
        assert any("rollup" in line for line in differences), "the rollups count what is no more there"
        client.command(
            "ALTER TABLE events UPDATE cause = 'greylist' WHERE cause = 'mailbox_unknown' SETTINGS mutations_sync = 2"
        )
        ran = system.run("verify", "--json")
        assert any("cause 'greylist'" in line for line in orjson.loads(ran.stdout)["differences"])
    finally:
        client.close()


def test_the_list_is_changed_by_hand(system: System) -> None:
    """Each command answers for what it was asked, and sends nothing that changes nothing."""
    said = system.ok("suppressions", "add", "shut.example.net", "--note", "asked by phone")
    assert said.startswith("shut.example.net: denied (manual; scope global")
    assert "asked by phone" in said
    assert "its domain" in system.ok("suppressions", "check", "user@shut.example.net")
    assert "allowed" in system.ok("suppressions", "check", "user@sub.shut.example.net")
    refused = system.run("suppressions", "release", "user@shut.example.net")
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert b"its domain with scope global" in refused.stderr

    system.ok("suppressions", "add", "user@example.net")
    system.ok("suppressions", "add", "user@example.net", "--scope", "global")
    released = orjson.loads(system.ok("suppressions", "release", "user@example.net", "--json"))
    assert len(released["commands"]) == 2, "one for each entry"
    assert released["answer"]["allowed"] is True
    assert system.ok("suppressions", "release", "shut.example.net") == "shut.example.net: allowed\n"

    before = system.status()["commands"]
    for subject in ("shut.example.net", "user@example.net", "never@example.net"):
        assert system.ok("suppressions", "release", subject) == f"{subject}: not on the list, so nothing was sent\n"
    assert system.status()["commands"] == before

    listed = system.run("suppressions", "list", "--state", "released", "--limit", "1")
    assert listed.stderr == b"the first 1 of 3; --limit shows more\n"


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("INSERT INTO events (event_id) VALUES ('')", "This statement writes. Readers may not."),
        ("SELECT sleep(1)", "sleep() is not allowed"),
    ],
)
def test_sql_says_plainly_what_it_refuses(system: System, statement: str, words: str) -> None:
    ran = system.run("sql", statement)
    assert ran.returncode == 1
    assert words in ran.stderr.decode()


def test_an_unknown_format_is_named_once(system: System) -> None:
    assert system.run("sql", "SELECT 1", "--format", "Bogus").stderr.decode().count("Bogus") == 1
