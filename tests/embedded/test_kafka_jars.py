"""The broker's jars, from a Maven repository on this machine: pinned, verified, whole or absent."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jgo.maven._core as jgo_core
import pytest

from mailecho.pipeline.embedded import jars
from mailecho.pipeline.embedded.jars import ATTEMPTS, KAFKA_VERSION, Jar, KafkaUnavailable, ensure_jars, read_lock

NAMES = ("alpha", "beta", "gamma")


def content(name: str) -> bytes:
    return f"the content of {name}".encode() * 1000


class Repository(ThreadingHTTPServer):
    """A Maven repository. `cut` answers are cut in the middle; `hang` answers stop there until released."""

    daemon_threads = False  # joined by server_close, so that no socket outlives the test

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        self.cut = 0
        self.hang = False
        self.forge = False
        self.halfway = threading.Event()
        self.release = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Repository

    def do_GET(self) -> None:
        file = self.path.rpartition("/")[2]
        if not file.endswith(".jar"):
            self.send_error(404)
            return
        self.server.asked.append(file)
        body = content(file.partition("-")[0])
        if self.server.forge:
            body = body.upper()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        half = len(body) // 2
        self.wfile.write(body[:half])
        self.wfile.flush()
        if self.server.cut:
            self.server.cut -= 1
            return
        if self.server.hang:
            self.server.halfway.set()
            self.server.release.wait(60)
        with contextlib.suppress(OSError):  # a client that was killed meanwhile
            self.wfile.write(body[half:])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def repository(monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    with Repository() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        monkeypatch.setitem(jgo_core.DEFAULT_REMOTE_REPOS, "central", server.url)
        yield server
        server.release.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A lock file of three jars, in force, and an empty cache."""
    file = tmp_path / "jars.lock"
    pins = (f"org.example:{name}:1.0 {hashlib.sha256(content(name)).hexdigest()}\n" for name in NAMES)
    file.write_text("# three\n" + "".join(pins))
    monkeypatch.setattr(jars, "read_lock", functools.partial(read_lock, file))
    monkeypatch.setenv("MAILECHO_CACHE_DIR", str(tmp_path / "cache"))
    return file


def files(directory: Path) -> set[str]:
    return {file.name for file in directory.iterdir()} - {".lock"}


ALL = {f"{name}-1.0.jar" for name in NAMES}

# The same in a process of its own, which can be killed.
SCRIPT = """
import functools, pathlib, sys
import jgo.maven._core as jgo_core
from mailecho.pipeline.embedded import jars
jgo_core.DEFAULT_REMOTE_REPOS["central"] = sys.argv[1]
jars.read_lock = functools.partial(jars.read_lock, pathlib.Path(sys.argv[2]))
jars.ensure_jars()
"""


def run(repository: Repository, lock: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", SCRIPT, repository.url, str(lock)])


def test_downloads_once_and_tells_how_far_it_is(repository: Repository, lock: Path) -> None:
    told: list[tuple[int, int, str]] = []
    directory = ensure_jars(lambda *how_far: told.append(how_far))
    assert files(directory) == ALL
    assert [(done, total) for done, total, _ in told] == [(1, 3), (2, 3), (3, 3)]
    assert {name for _, _, name in told} == ALL
    assert (directory / "beta-1.0.jar").read_bytes() == content("beta")
    assert ensure_jars() == directory
    assert sorted(repository.asked) == sorted(ALL)


def test_a_forged_download_is_refused_and_not_kept(repository: Repository, lock: Path) -> None:
    repository.forge = True
    with pytest.raises(KafkaUnavailable, match=r"org\.example:\w+:1\.0 is not the pinned file: SHA-256 \w{64}"):
        ensure_jars()
    assert files(jars.cache_dir() / "kafka") == set()


def test_a_damaged_jar_in_the_cache_is_replaced(repository: Repository, lock: Path) -> None:
    directory = ensure_jars()
    damaged = directory / "beta-1.0.jar"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    repository.asked.clear()
    ensure_jars()
    assert damaged.read_bytes() == content("beta")
    assert repository.asked == ["beta-1.0.jar"]


def test_a_cut_download_is_tried_again(repository: Repository, lock: Path) -> None:
    repository.cut = 2
    assert files(ensure_jars()) == ALL


def test_a_repository_that_always_cuts_is_an_error_that_says_the_way_out(repository: Repository, lock: Path) -> None:
    repository.cut = len(NAMES) * ATTEMPTS
    with pytest.raises(KafkaUnavailable, match=r"org\.example:\w+:1\.0.*MAILECHO_KAFKA__BOOTSTRAP_SERVERS"):
        ensure_jars()
    assert files(jars.cache_dir() / "kafka") == set()


def test_no_network_is_an_error_that_says_the_way_out(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(jgo_core.DEFAULT_REMOTE_REPOS, "central", "http://127.0.0.1:1")
    with pytest.raises(KafkaUnavailable, match=r"network.*MAILECHO_KAFKA__BOOTSTRAP_SERVERS"):
        ensure_jars()


def test_a_killed_download_leaves_no_half_jar(repository: Repository, lock: Path) -> None:
    repository.hang = True
    child = run(repository, lock)
    assert repository.halfway.wait(30)
    child.kill()
    child.wait()
    directory = jars.cache_dir() / "kafka"
    assert {name for name in files(directory) if name.endswith(".jar")} == set()
    repository.hang = False
    repository.release.set()
    assert files(ensure_jars()) == ALL, "and what it left is cleared away"


def test_two_processes_at_once_download_once(repository: Repository, lock: Path) -> None:
    repository.hang = True
    children = [run(repository, lock), run(repository, lock)]
    assert repository.halfway.wait(30)
    repository.release.set()
    assert [child.wait(60) for child in children] == [0, 0]
    assert sorted(repository.asked) == sorted(ALL)


def test_a_cache_that_cannot_be_written_names_the_variable(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILECHO_CACHE_DIR", str(lock / "below-a-file"))
    with pytest.raises(KafkaUnavailable, match="MAILECHO_CACHE_DIR"):
        ensure_jars()


def test_the_lock_file_pins_this_kafka() -> None:
    pins = read_lock()
    assert f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}" in {str(jar) for jar in pins}
    assert {jar.version for jar in pins if jar.group == "org.apache.kafka"} == {KAFKA_VERSION}
    assert len({jar.file for jar in pins}) == len(pins)
    assert all(len(jar.sha256) == 64 for jar in pins)


def test_a_wrong_line_of_the_lock_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "jars.lock"
    file.write_text("org.example:alpha:1.0 00\norg.example:beta 00\n")
    with pytest.raises(ValueError, match=r"jars\.lock:2: expected"):
        read_lock(file)
    file.write_text("org.example:alpha:1.0 00\n")
    assert read_lock(file) == [Jar("org.example", "alpha", "1.0", "00")]
