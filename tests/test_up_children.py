"""The supervisor's parts, with small real processes as children."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import psutil
import pytest

from mailecho.pipeline.supervise.child import Backoff, Child, RollingLog, Spec, describe_exit
from mailecho.pipeline.supervise.group import Group

FAST = Backoff(first=0.02, most=0.1, healthy=60, refusal=0.05)
SLEEP = "import time; print('up', flush=True); time.sleep(600)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"


def spec(name: str, program: str, *, last: bool = False) -> Spec:
    return Spec(name, [sys.executable, "-c", program], dict(os.environ), last)


async def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - the condition is in another process
            await asyncio.sleep(0.01)


def test_a_killed_child_is_started_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        states: list[str] = []
        child = Child(spec("a", SLEEP), RollingLog(tmp_path / "a.log"), lambda c: states.append(c.state), FAST)
        await until(lambda: child.last_lines() == ["up"])
        first = child.pid
        child.signal(signal.SIGKILL)
        await until(lambda: child.restarts == 1 and child.alive and child.pid != first)
        assert child.status()["last_exit"] == "killed by SIGKILL"
        await child.stop(10)
        assert states == ["running", "backoff", "running", "stopped"]
        assert child.pid is None

    asyncio.run(scenario())
    assert "killed by SIGKILL; starts again in 0.02 s" in (tmp_path / "a.log").read_text()


def test_a_refusal_shows_its_reason(tmp_path: Path) -> None:
    async def scenario() -> None:
        program = "import sys; print('api.token: needed on 0.0.0.0', file=sys.stderr); sys.exit(78)"
        seen: list[dict[str, object]] = []
        child = Child(spec("r", program), RollingLog(tmp_path / "r.log"), lambda c: seen.append(c.status()), FAST)
        await until(lambda: child.restarts >= 2)
        await child.stop(10)
        refused = next(status for status in seen if status["state"] == "refused")
        assert refused["reason"] == "api.token: needed on 0.0.0.0"
        assert refused["last_exit"] == "exit 78"

    asyncio.run(scenario())


def test_backoff_doubles_to_its_bound(tmp_path: Path) -> None:
    async def scenario() -> None:
        child = Child(spec("b", "raise SystemExit(3)"), RollingLog(tmp_path / "b.log"), backoff=FAST)
        await until(lambda: child.restarts >= 5)
        await child.stop(10)

    asyncio.run(scenario())
    rests = [line.rsplit(" ", 2)[1] for line in (tmp_path / "b.log").read_text().splitlines() if "again in" in line]
    assert rests[:5] == ["0.02", "0.04", "0.08", "0.1", "0.1"]


def test_backoff_starts_afresh_after_healthy_work(tmp_path: Path) -> None:
    async def scenario() -> None:
        backoff = Backoff(first=0.02, most=5, healthy=0.0, refusal=5)
        child = Child(spec("h", "raise SystemExit(3)"), RollingLog(tmp_path / "h.log"), backoff=backoff)
        await until(lambda: child.restarts >= 4)
        await child.stop(10)

    asyncio.run(scenario())
    rests = {line.rsplit(" ", 2)[1] for line in (tmp_path / "h.log").read_text().splitlines() if "again in" in line}
    assert rests == {"0.02"}


def test_a_deaf_child_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys, time, signal\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid, flush=True)\n"
        "time.sleep(600)\n"
    )

    async def scenario() -> int:
        child = Child(spec("d", program), RollingLog(tmp_path / "d.log"), backoff=FAST)
        await until(lambda: bool(child.last_lines()))
        grandchild = int(child.last_lines()[-1])
        await child.stop(0.2)
        assert child.last_exit == "killed by SIGKILL"
        await until(lambda: not _runs(grandchild))
        return grandchild

    assert asyncio.run(scenario()) > 0


def test_group_stops_those_that_others_need_last(tmp_path: Path) -> None:
    stopped: list[str] = []

    async def scenario() -> None:
        group = Group(
            lambda s: RollingLog(tmp_path / f"{s.name}.log"),
            lambda c: stopped.append(c.name) if c.state == "stopped" else None,
            FAST,
        )
        group.start(spec("kafka", SLEEP, last=True))
        group.start(spec("worker", SLEEP))
        group.start(spec("deaf", DEAF))
        await until(lambda: all(c.last_lines() == ["up"] for c in group.children.values()))
        await group.stop(first=0.3, last=5)

    asyncio.run(scenario())
    assert stopped == ["worker", "deaf", "kafka"]


def test_the_log_is_bounded(tmp_path: Path) -> None:
    log = RollingLog(tmp_path / "x.log", limit=1000)
    for number in range(100):
        log.write(b"%04d" % number + b"." * 95 + b"\n")
    log.close()
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["x.log", "x.log.1"]
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())
    assert (tmp_path / "x.log").read_bytes().splitlines()[-1].startswith(b"0099")


def test_children_die_with_a_killed_supervisor(tmp_path: Path) -> None:
    program = (
        "import asyncio, os, sys\n"
        "from mailecho.pipeline.supervise.child import Child, RollingLog, Spec\n"
        "from pathlib import Path\n"
        "async def main():\n"
        f"    spec = Spec('c', [sys.executable, '-c', {DEAF!r}], dict(os.environ))\n"
        f"    child = Child(spec, RollingLog(Path({str(tmp_path / 'c.log')!r})))\n"
        "    while not child.last_lines(): await asyncio.sleep(0.01)\n"
        "    print(child.pid, flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert supervisor.stdout is not None
    with supervisor.stdout:
        child = int(supervisor.stdout.readline())
        assert _runs(child)
        supervisor.kill()
        supervisor.wait()
    deadline = time.monotonic() + 30
    while _runs(child):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_program_that_does_not_exist(tmp_path: Path) -> None:
    async def scenario() -> None:
        child = Child(Spec("n", ["/nowhere/java"], dict(os.environ)), RollingLog(tmp_path / "n.log"), backoff=FAST)
        await until(lambda: child.restarts >= 1)
        assert child.last_exit == "exit 127"
        assert child.last_lines(5)[0] == "cannot run /nowhere/java: No such file or directory"
        await child.stop(5)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("code", "words"), [(0, "exit 0"), (70, "exit 70"), (-9, "killed by SIGKILL"), (-64, "killed by signal 64")]
)
def test_exits_in_words(code: int, words: str) -> None:
    assert describe_exit(code) in (words, "killed by SIGRTMAX")


def test_status_is_json(tmp_path: Path) -> None:
    async def scenario() -> bytes:
        child = Child(spec("s", SLEEP), RollingLog(tmp_path / "s.log"), backoff=FAST)
        await until(lambda: child.alive)
        shown = orjson.dumps(child.status())
        await child.stop(5)
        return shown

    assert set(orjson.loads(asyncio.run(scenario()))) == {"name", "pid", "state", "restarts"}


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_worker_pool_runs_each_as_its_own_member_and_stops_together() -> None:
    # one write a line: two children share the pipe
    show = "import os, time; os.write(1, os.environ['MAILECHO_INSTANCE'].encode() + b'\\n'); time.sleep(600)"
    program = (
        "import asyncio, os, sys\n"
        "from mailecho.pipeline.supervise.child import Spec\n"
        "from mailecho.pipeline.supervise.group import run_group\n"
        "specs = [Spec(n, [sys.executable, '-c', sys.argv[1]], {**os.environ, 'MAILECHO_INSTANCE': n}) for n in 'ab']\n"
        "sys.exit(asyncio.run(run_group(specs)))\n"
    )
    pool = subprocess.Popen([sys.executable, "-c", program, show], stderr=subprocess.PIPE, text=True)
    assert pool.stderr is not None
    with pool.stderr:
        assert {pool.stderr.readline(), pool.stderr.readline()} == {"a\n", "b\n"}
        children = [child.pid for child in psutil.Process(pool.pid).children()]
        pool.terminate()
        assert pool.wait(60) == 0
    assert len(children) == 2
    assert not any(_runs(pid) for pid in children)
