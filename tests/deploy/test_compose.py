"""The compose set-up, as far as that can be told without Docker: its structure, and its topics."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from mailecho.pipeline.embedded.jars import KAFKA_VERSION
from mailecho.pipeline.embedded.kafka import SETTINGS
from mailecho.pipeline.topics import shell_script
from mailecho.schemas.topics import registry

COMPOSE = Path(__file__).parents[2] / "deploy" / "compose"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())
    return content


def test_images_are_pinned_and_kafka_is_the_embedded_one(compose: dict[str, Any]) -> None:
    images = {name: service["image"] for name, service in compose["services"].items()}
    assert images["kafka"] == images["topics"] == f"apache/kafka:{KAFKA_VERSION}"
    repository, _, tag = images["clickhouse"].partition(":")
    assert repository == "clickhouse/clickhouse-server"
    assert tag[:1].isdigit()


def test_every_port_is_on_loopback(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert len(ports) == 2
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_servers_have_health_checks_and_what_waits_waits_for_health(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert {name for name, service in services.items() if "healthcheck" in service} == {"kafka", "clickhouse"}
    for service in services.values():
        for name, how in service.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in services[name]


def test_data_is_on_named_volumes(compose: dict[str, Any]) -> None:
    for name, path in (("kafka", "/var/lib/kafka/data"), ("clickhouse", "/var/lib/clickhouse")):
        assert compose["services"][name]["volumes"] == [f"{name}:{path}"]
        assert name in compose["volumes"]
    assert compose["services"]["kafka"]["environment"]["KAFKA_LOG_DIRS"] == "/var/lib/kafka/data"


def test_the_broker_is_set_as_the_embedded_one(compose: dict[str, Any]) -> None:
    environment = compose["services"]["kafka"]["environment"]
    shared = {name: f"KAFKA_{name.upper().replace('.', '_')}" for name in SETTINGS}
    differ = {
        name: environment[variable]
        for name, variable in shared.items()
        if variable in environment and environment[variable] != SETTINGS[name]
    }
    assert set(differ) == {"listener.security.protocol.map"}, "it has one listener more"


def test_topics_sh_is_the_registry() -> None:
    assert (COMPOSE / "topics.sh").read_text() == shell_script(), (
        "make it again: python -m mailecho.pipeline.topics > deploy/compose/topics.sh"
    )


def test_topics_sh_calls_kafkas_tool_as_the_registry_says(tmp_path: Path) -> None:
    tool = tmp_path / "kafka-topics.sh"
    tool.write_text('#!/bin/sh\necho "$@"\n')
    tool.chmod(0o755)
    ran = subprocess.run(
        ["bash", str(COMPOSE / "topics.sh")],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "BOOTSTRAP": "kafka:19092", "PARTITIONS": "6"},
        capture_output=True,
        text=True,
        check=True,
    )
    calls = {}
    for line in ran.stdout.splitlines():
        words = line.split()
        assert words[:6] == [
            "--bootstrap-server",
            "kafka:19092",
            "--create",
            "--if-not-exists",
            "--replication-factor",
            "1",
        ]
        assert words[6] == "--topic"
        assert words[8] == "--partitions"
        assert set(words[10::2]) == {"--config"}
        calls[words[7]] = (int(words[9]), dict(word.split("=", 1) for word in words[11::2]))
    assert calls == {topic.name: (topic.partitions, topic.config()) for topic in registry(6).values()}
