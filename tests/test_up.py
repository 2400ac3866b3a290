"""`mailecho up` end to end: the real broker, the real engine, all roles, as a user starts them.

One system for the module; the tests run in the order of the file, from start to kill -9.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import orjson
import psutil
import pytest

from mailecho.pipeline.endpoints import read_endpoints
from mailecho.pipeline.status import COUNTS
from tests.system import System, until

pytestmark = [pytest.mark.kafka, pytest.mark.clickhouse, pytest.mark.timeout(300)]

#: On two cores; a larger machine has more workers.
PARTS = {"kafka", "clickhouse", "serve", "lander", "ledger-0", "classify-0"}
LINE = (
    b'{"kind":"bounce","occurred_at":%d,"recipient":"gone%d@example.org","id":"t%d","sending_ip":"192.0.2.1",'
    b'"smtp_code":550,"status":"5.1.1","diagnostic":"550 5.1.1 No such user here"}\n'
)


@pytest.fixture(scope="module")
def system(kafka_jars: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    system = System(tmp_path_factory.mktemp("up"))
    system.start()
    yield system
    system.end()


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_all_parts_run_and_status_is_complete(system: System) -> None:
    until(lambda: {name for name, p in system.processes().items() if p["state"] == "running"} >= PARTS)
    status = system.status()
    assert set(status) >= {*COUNTS, "suppressions", "lag", "balanced", "endpoints", "processes"}
    assert "errors" not in status
    assert status["endpoints"] == read_endpoints(system.data)
    assert {p["name"] for p in status["processes"]} >= PARTS


def test_what_goes_in_is_in_sql_and_counts_balance(system: System) -> None:
    now = int(time.time() * 1000)
    lines = b"".join(LINE % (now, number, number) for number in range(20))
    assert "20" not in system.ok("sql", "SELECT count() FROM events")
    system.ok("intake", "files", "-", "--source", "mailecho", stdin=lines)
    system.ok("intake", "files", "-", "--source", "mailecho", stdin=lines)  # the same facts again
    count = ("sql", "SELECT count() AS n FROM events WHERE cause = 'mailbox_unknown'", "--format", "TabSeparated")
    until(lambda: system.ok(*count).strip() == "20")
    until(lambda: system.status()["balanced"])
    status = system.status()
    assert (status["events"], status["duplicates"], status["landed"], status["rejected"]) == (20, 20, 20, 0)
    assert all(lag == 0 for lag in status["lag"].values())
    assert system.ok("reconcile") == "rollups and events agree\n"
    system.ok("verify", "--from-raw", "--json")


def test_a_hard_bounce_is_suppressed_and_found_by_key(system: System) -> None:
    until(lambda: not orjson.loads(system.ok("suppressions", "check", "gone3@example.org", "--json"))["allowed"])
    key = system.ok("key", "Gone3@example.org").strip()
    rows = system.ok("sql", f"SELECT count() FROM events WHERE recipient_key = '{key}'", "--format", "TabSeparated")
    assert rows.strip() == "1"


def test_suppressions_from_the_shell(system: System) -> None:
    assert "allowed" in system.ok("suppressions", "check", "user@example.com")
    answer = orjson.loads(system.ok("suppressions", "add", "user@example.com", "--note", "asked", "--json"))["answer"]
    assert (answer["allowed"], answer["reason"]) == (False, "manual")
    assert "denied" in system.ok("suppressions", "check", "User@Example.com")
    entries = [orjson.loads(line) for line in system.ok("suppressions", "list", "--json").splitlines()]
    assert [e["note"] for e in entries if e.get("address") == "user@example.com"] == ["asked"]
    assert "user@example.com" in system.ok("suppressions", "list", "--state", "active")
    assert "allowed" in system.ok("suppressions", "release", "user@example.com")
    system.ok("suppressions", "add", "example.net")
    assert "denied" in system.ok("suppressions", "check", "anyone@example.net")
    mixed = system.run("suppressions", "check", "user@example.com", "nonsense", "--json")
    assert mixed.returncode == 1
    assert [("error" in answer) for answer in orjson.loads(mixed.stdout)] == [False, True]


def test_what_cannot_be_read_is_a_dead_letter(system: System) -> None:
    system.ok("intake", "files", "-", "--source", "mailecho", stdin=b'{"kind":"bounce","recipi\n')
    until(lambda: system.status()["dead_letters"] == 1)
    (line,) = system.ok("dlq", "list", "feedback.raw.delivery", "--json").splitlines()
    assert orjson.loads(line)["reason"] == "unreadable"
    assert "redriven 1" in system.ok("dlq", "redrive", "feedback.raw.delivery")
    until(lambda: system.status()["dead_letters"] == 2)


def test_bad_sql_is_one_short_error(system: System) -> None:
    ran = system.run("sql", "SELECT nonsense FROM events")
    assert ran.returncode == 1
    assert b"nonsense" in ran.stderr
    assert len(ran.stderr.splitlines()) <= 2
    assert system.run("sql", "DROP TABLE events").returncode == 1
    assert system.ok("sql", "SELECT count() > 0 AS there FROM events", "--format", "TabSeparated") == "1\n"


def test_a_second_up_on_the_directory_is_refused(system: System) -> None:
    ran = system.run("up", "--data-dir", str(system.data), "--port", "0")
    assert ran.returncode == 1
    assert b"--data-dir" in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
    assert read_endpoints(system.data), "the running one still says where it is"


def test_a_taken_port_is_refused(system: System, tmp_path: Path) -> None:
    port = read_endpoints(system.data)["api"].rpartition(":")[2]
    ran = system.run("up", "--data-dir", str(tmp_path), "--port", port)
    assert ran.returncode == 1
    assert b"--port" in ran.stderr


@pytest.mark.parametrize("name", ["lander", "serve", "clickhouse"])
def test_a_killed_child_is_started_again(system: System, name: str) -> None:
    before = system.processes()[name]
    os.kill(before["pid"], signal.SIGKILL)
    until(lambda: system.processes()[name]["restarts"] == before["restarts"] + 1)
    until(lambda: system.processes()[name]["state"] == "running")
    after = system.processes()[name]
    assert after["pid"] != before["pid"]
    assert after["last_exit"] == "killed by SIGKILL"
    until(lambda: "errors" not in system.status())


def test_ctrl_c_stops_everything_cleanly(system: System) -> None:
    pids = system.pids()
    assert system.stop() == 0
    assert not any(alive(pid) for pid in pids)
    for name, process in system.processes().items():
        assert process["state"] == "stopped"
        assert process["last_exit"] != "killed by SIGKILL", f"{name} had to be killed"
    assert read_endpoints(system.data) == {}
    ran = system.run("sql", "SELECT 1", "--data-dir", str(system.data))
    assert ran.returncode == 1
    assert b"mailecho up" in ran.stderr


def test_state_survives_a_restart(system: System) -> None:
    system.start()
    assert system.ok("sql", "SELECT count() FROM events WHERE kind = 'bounce'", "--format", "TabSeparated") == "20\n"
    until(lambda: "denied" in system.ok("suppressions", "check", "anyone@example.net"))
    until(lambda: "errors" not in system.status())


def test_a_killed_up_leaves_nothing_behind_and_can_start_again(system: System) -> None:
    pids = system.pids()
    system.stop(signal.SIGKILL)
    until(lambda: not any(alive(pid) for pid in pids))
    system.start()
    until(lambda: "errors" not in system.status())
    assert system.ok("sql", "SELECT count() FROM events WHERE kind = 'bounce'", "--format", "TabSeparated") == "20\n"
    assert system.stop(signal.SIGTERM) == 0


def test_another_identity_key_is_refused(system: System) -> None:
    ran = system.run("up", "--data-dir", str(system.data), "--port", "0", MAILECHO_IDENTITY_KEY="ab" * 32)
    assert ran.returncode == 1
    assert b"identity_key" in ran.stderr
