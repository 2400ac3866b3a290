"""The broker's jars: pinned in `jars.lock`, downloaded once, verified at every start.

`python -m mailecho.pipeline.embedded.jars relock` makes the lock file again after a change of
`KAFKA_VERSION`; only that needs Maven on the developer's machine.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

LOCK_FILE = Path(__file__).with_name("jars.lock")

KAFKA_VERSION = "4.3.1"

#: What the lock file resolves. Without a binding for slf4j the broker logs nothing; 2.25.3 is that
#: of Kafka's own distribution.
ROOTS = (f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}", "org.apache.logging.log4j:log4j-slf4j-impl:2.25.3")

#: 46 small files: latency counts, not bandwidth.
THREADS = 8

#: A dropped connection is common in 46 downloads; more tries would only delay the error offline.
ATTEMPTS = 3

#: Called with (done, total, file name) after each downloaded jar.
Progress = Callable[[int, int, str], None]

WAY_OUT = (
    "The embedded Kafka needs them once: connect this machine to the network and start again, or use an own "
    "cluster by MAILECHO_KAFKA__BOOTSTRAP_SERVERS=host:port (kafka.bootstrap_servers in the file)"
)


class KafkaUnavailable(RuntimeError):
    """The embedded broker cannot run here. The message says what is missing and the way out."""


@dataclass(frozen=True, slots=True)
class Jar:
    """One pinned file of Maven Central."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file(self) -> str:
        """Its file name, which is unique in the lock file."""
        return f"{self.artifact}-{self.version}.jar"

    def __str__(self) -> str:
        return f"{self.group}:{self.artifact}:{self.version}"


def read_lock(file: Path = LOCK_FILE) -> list[Jar]:
    """The pinned jars, in the order of the lock file. Raises ValueError with the line that is wrong."""
    jars = []
    for number, line in enumerate(file.read_text("ascii").splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        try:
            coordinates, sha256 = line.split()
            group, artifact, version = coordinates.split(":")
        except ValueError:
            raise ValueError(f"{file}:{number}: expected `group:artifact:version sha256`, found {line!r}") from None
        jars.append(Jar(group, artifact, version, sha256))
    return jars


def cache_dir() -> Path:
    """Where downloads are kept: MAILECHO_CACHE_DIR, else `mailecho` in the platform's user cache."""
    if named := os.environ.get("MAILECHO_CACHE_DIR"):
        return Path(named)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "mailecho"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mailecho"


def classpath(directory: Path) -> str:
    """Java's class path of the jars in that directory: just the pinned ones, in a fixed order."""
    return os.pathsep.join(str(directory / jar.file) for jar in read_lock())


def ensure_jars(progress: Progress | None = None) -> Path:
    """The directory that holds all pinned jars, each verified against its SHA-256.

    What is missing or damaged is downloaded. Safe to be killed and to run twice at once: a jar
    gets its name only when it is whole and verified, and one process at a time downloads.
    Verifying all 46 (45 MB) takes about 0.1 s, so it is done at every start. Raises KafkaUnavailable.
    """
    directory = cache_dir() / "kafka"
    jars = read_lock()
    try:
        if not _unverified(jars, directory):
            return directory
        directory.mkdir(parents=True, exist_ok=True)
        with _locked(directory / ".lock"):
            # another process may have downloaded them while this one waited for the lock
            missing = _unverified(jars, directory)
            if missing:
                _download(missing, directory, progress)
    except OSError as error:
        raise KafkaUnavailable(
            f"cannot store the jars of Apache Kafka in {directory}: {error.strerror or error}. "
            "Name a directory that can be written and has 100 MB free: MAILECHO_CACHE_DIR=/path"
        ) from error
    return directory


def _unverified(jars: list[Jar], directory: Path) -> list[Jar]:
    return [jar for jar in jars if _sha256(directory / jar.file) != jar.sha256]


def _sha256(file: Path) -> str | None:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except FileNotFoundError:
        return None


@contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _download(jars: list[Jar], directory: Path, progress: Progress | None) -> None:
    for left in directory.glob("download-*"):  # by a process that was killed; the lock is ours
        shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix="download-", dir=directory) as work, ThreadPoolExecutor(THREADS) as pool:
        futures = {pool.submit(_fetch, jar, Path(work)): jar for jar in jars}
        try:
            for done, future in enumerate(as_completed(futures), 1):
                os.replace(future.result(), directory / futures[future].file)
                if progress is not None:
                    progress(done, len(jars), futures[future].file)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _fetch(jar: Jar, work: Path) -> Path:
    # Imported here: it costs 0.25 s, and is needed once in the life of an installation.
    import requests
    from jgo.maven import MavenContext

    for attempt in range(1, ATTEMPTS + 1):
        # a repository of its own each time: jgo takes a half file of a failed attempt for a whole one
        maven = MavenContext(repo_cache=work / f"{jar.artifact}-{attempt}")
        try:
            file: Path = maven.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
            break
        except requests.RequestException as error:
            if attempt == ATTEMPTS:
                raise KafkaUnavailable(
                    f"cannot download {jar}, one of the jars of Apache Kafka ({type(error).__name__}). {WAY_OUT}"
                ) from error
        except RuntimeError as error:  # jgo's word for any answer but 200
            raise KafkaUnavailable(f"Maven Central did not give {jar}, a jar of Apache Kafka. {WAY_OUT}") from error
    found = _sha256(file)
    if found != jar.sha256:
        raise KafkaUnavailable(
            f"the download of {jar} is not the pinned file: SHA-256 {found}, expected {jar.sha256}. Nothing of it "
            "was kept; a proxy that answers in the place of Maven Central is the usual cause"
        )
    return file


def relock(file: Path = LOCK_FILE) -> None:
    """Resolve `ROOTS` with Maven and write the lock file. Raises CalledProcessError, with Maven's output shown."""
    dependencies = "".join(
        "<dependency><groupId>{}</groupId><artifactId>{}</artifactId><version>{}</version></dependency>".format(
            *root.split(":")
        )
        for root in ROOTS
    )
    with tempfile.TemporaryDirectory() as work:
        pom = Path(work, "pom.xml")
        pom.write_text(
            '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
            "<groupId>mailecho</groupId><artifactId>broker</artifactId><version>1</version><packaging>pom</packaging>"
            f"<dependencies>{dependencies}</dependencies></project>"
        )
        listing = Path(work, "list.txt")
        plugin = "org.apache.maven.plugins:maven-dependency-plugin:3.8.1:list"
        maven = f"mvn --batch-mode --quiet --strict-checksums {plugin} -DoutputAbsoluteArtifactFilename=true"
        subprocess.run(
            [*maven.split(), "-DincludeScope=runtime", f"-DoutputFile={listing}", f"--file={pom}"], check=True
        )
        pins = []
        for line in listing.read_text().splitlines():
            # group:artifact:jar:version:scope:/absolute/path -- module name
            parts = line.strip().partition(" -- ")[0].split(":", 5)
            if len(parts) == 6 and parts[2] == "jar":
                pins.append(f"{parts[0]}:{parts[1]}:{parts[3]} {_sha256(Path(parts[5]))}\n")
    head = (
        f"# The runtime dependencies of {' and '.join(ROOTS)}.\n"
        "# Made by `python -m mailecho.pipeline.embedded.jars relock`: coordinates, SHA-256.\n"
    )
    file.write_text(head + "".join(sorted(pins)), "ascii")


if __name__ == "__main__":
    if sys.argv[1:] != ["relock"]:
        sys.exit("usage: python -m mailecho.pipeline.embedded.jars relock")
    relock()
