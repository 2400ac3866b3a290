"""One `up` a directory; running ups are found, dead ones are not; marks of machine and identity."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from mailecho.pipeline.config import ApiSettings, Settings
from mailecho.pipeline.endpoints import (
    NotRunning,
    api_url,
    kafka_bootstrap,
    read_endpoints,
    run_dir,
    write_endpoints,
)
from mailecho.pipeline.identity import Identity, IdentityKeyError
from mailecho.pipeline.supervise import machine, plan
from mailecho.pipeline.supervise.claim import Ambiguous, Claimed, claim, registry_dir, running, the_running_one
from mailecho.pipeline.supervise.machine import MachineMark, check_fingerprint


@pytest.fixture(autouse=True)
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


HOLD = (
    "import sys\n"
    "from pathlib import Path\n"
    "from mailecho.pipeline.supervise.claim import claim\n"
    "with claim(Path(sys.argv[1])):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()\n"
)


def hold(directory: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str], *, kill: bool = False) -> None:
    if kill:
        process.kill()
    process.communicate()


def test_a_second_claim_is_refused_and_names_the_holder(tmp_path: Path) -> None:
    process = hold(tmp_path / "d")
    with pytest.raises(Claimed, match=rf"pid {process.pid}.*--data-dir"), claim(tmp_path / "d"):
        pass
    end(process)
    with claim(tmp_path / "d"):
        assert running() == [tmp_path / "d"]
    assert running() == []


def test_a_killed_holder_frees_the_directory_and_leaves_the_list(tmp_path: Path) -> None:
    process = hold(tmp_path / "d")
    assert the_running_one() == tmp_path / "d"
    end(process, kill=True)
    assert the_running_one() is None
    assert list(registry_dir().iterdir()) == []
    with claim(tmp_path / "d"):
        assert the_running_one() == tmp_path / "d"


def test_several_running_must_be_named(tmp_path: Path) -> None:
    first, second = hold(tmp_path / "a"), hold(tmp_path / "b")
    with pytest.raises(Ambiguous, match="--data-dir") as caught:
        the_running_one()
    assert str(tmp_path / "a") in str(caught.value)
    assert str(tmp_path / "b") in str(caught.value)
    end(first)
    assert the_running_one() == tmp_path / "b"
    end(second)


def test_a_pid_that_belongs_to_another_process_now(tmp_path: Path) -> None:
    registry_dir().mkdir(parents=True)
    (registry_dir() / f"{os.getpid()}.json").write_bytes(orjson.dumps({"data_dir": "/x", "created": 1.0}))
    (registry_dir() / "12.json").write_bytes(b"{")
    assert running() == []


def test_unclean_stop_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir(tmp_path).mkdir()
    assert not MachineMark(tmp_path).stopped_unclean()  # a first start
    mark = MachineMark(tmp_path)
    mark.open()
    assert not MachineMark(tmp_path).stopped_unclean()  # `up` was killed, the machine went on
    monkeypatch.setattr(machine, "boot_id", lambda: "another boot")
    assert MachineMark(tmp_path).stopped_unclean()
    mark.close()
    assert not MachineMark(tmp_path).stopped_unclean()


def test_a_start_that_failed_before_the_rewind_leaves_the_mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir(tmp_path).mkdir()
    MachineMark(tmp_path).open()
    monkeypatch.setattr(machine, "boot_id", lambda: "another boot")
    MachineMark(tmp_path).close()
    assert MachineMark(tmp_path).stopped_unclean()


def test_a_mark_that_was_cut_off_counts_as_unclean(tmp_path: Path) -> None:
    run_dir(tmp_path).mkdir()
    (run_dir(tmp_path) / "machine.json").write_bytes(b"")
    assert MachineMark(tmp_path).stopped_unclean()


def test_another_identity_key_is_refused(tmp_path: Path) -> None:
    check_fingerprint(tmp_path, Identity(b"a" * 32))
    check_fingerprint(tmp_path, Identity(b"a" * 32))
    with pytest.raises(IdentityKeyError, match="identity_key"):
        check_fingerprint(tmp_path, Identity(b"b" * 32))


def test_a_taken_port_is_refused_by_name() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(plan.PortTaken, match="--port"):
            plan.api_port("127.0.0.1", taken.getsockname()[1])
    assert plan.api_port("127.0.0.1", 0) > 0


def test_an_embedded_part_keeps_its_port_unless_it_is_taken(tmp_path: Path) -> None:
    run_dir(tmp_path).mkdir()
    port = plan.stable_port(tmp_path, "clickhouse")
    assert plan.stable_port(tmp_path, "clickhouse") == port
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        assert plan.stable_port(tmp_path, "clickhouse") != port


@pytest.mark.parametrize(("cores", "partitions", "workers"), [(1, 4, 1), (2, 4, 1), (4, 4, 2), (64, 4, 4), (8, 1, 1)])
def test_workers_by_cores(cores: int, partitions: int, workers: int) -> None:
    assert plan.workers_each(partitions, cores) == workers


def test_endpoints_round_trip_and_what_is_missing(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    assert read_endpoints(tmp_path) == {}
    with pytest.raises(NotRunning, match="MAILECHO_KAFKA__BOOTSTRAP_SERVERS"):
        kafka_bootstrap(settings)
    with pytest.raises(NotRunning, match="MAILECHO_API__PORT"):
        api_url(settings)  # whatever answers on the default port may hold another list
    configured = Settings(data_dir=tmp_path, api=ApiSettings(port=8081))
    assert api_url(configured) == "http://127.0.0.1:8081"
    endpoints = {"kafka": "127.0.0.1:1", "clickhouse": "http://127.0.0.1:2", "api": "http://127.0.0.1:3"}
    write_endpoints(tmp_path, endpoints)
    assert read_endpoints(tmp_path) == endpoints
    assert (kafka_bootstrap(settings), api_url(settings)) == ("127.0.0.1:1", "http://127.0.0.1:3")
    (run_dir(tmp_path) / "endpoints.json").write_bytes(b"[1")
    assert read_endpoints(tmp_path) == {}


def test_children_are_told_where_everything_is(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    env = plan.environment(settings, "127.0.0.1:1", "http://127.0.0.1:2", 3)
    specs = plan.role_specs(env, 2)
    assert [s.name for s in specs] == ["serve", "lander", "ledger-0", "ledger-1", "classify-0", "classify-1"]
    assert [s.env["MAILECHO_INSTANCE"] for s in specs] == [s.name for s in specs]
    assert not any(s.last for s in specs)
    assert plan.engine_spec(settings, 2).last
