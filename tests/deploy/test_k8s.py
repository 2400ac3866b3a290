"""The Kubernetes manifests and the image: valid, complete, and in step with the settings and commands."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml

from mailecho.pipeline import telemetry
from mailecho.pipeline.cli import app
from mailecho.pipeline.config import Settings
from mailecho.pipeline.identity import IdentityKeyError, load_identity

ROOT = Path(__file__).parents[2]
BASE = ROOT / "deploy" / "k8s" / "base"
EXAMPLE = ROOT / "deploy" / "k8s" / "overlays" / "example"
DOCKERFILE = (ROOT / "deploy" / "docker" / "Dockerfile").read_text()
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

#: Read from the environment, and no settings.
NOT_SETTINGS = {"MAILECHO_CONFIG", "MAILECHO_METRICS_PORT"}


def documents(directory: Path) -> list[dict[str, Any]]:
    files = sorted(path for path in directory.glob("*.yaml") if path.name != "kustomization.yaml")
    return [document for path in files for document in yaml.safe_load_all(path.read_text()) if document]


MANIFESTS = documents(BASE) + documents(EXAMPLE)
PODS = {m["metadata"]["name"]: m["spec"]["template"] for m in MANIFESTS if "template" in m.get("spec", {})}
CONTAINERS: dict[str, dict[str, Any]] = {
    f"{name}/{container['name']}": container
    for name, pod in PODS.items()
    for container in (*pod["spec"].get("initContainers", ()), *pod["spec"]["containers"])
}
each_container = pytest.mark.parametrize("container", CONTAINERS.values(), ids=CONTAINERS)
ROLES = {name for name in PODS if name != "mailecho-setup"}


def name_of(manifest: dict[str, Any]) -> str:
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


@pytest.mark.parametrize("version", ["1.29", "1.37"])
@pytest.mark.parametrize("manifest", MANIFESTS, ids=name_of)
def test_manifest_is_valid(manifest: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


def test_names_are_unique() -> None:
    names = [name_of(manifest) for manifest in MANIFESTS]
    assert len(names) == len(set(names))
    assert {"mailecho-classify", "mailecho-ledger", "mailecho-lander", "mailecho-serve"} == ROLES


@pytest.mark.parametrize("directory", [BASE, EXAMPLE], ids=["base", "example"])
def test_kustomization_lists_every_file(directory: Path) -> None:
    kustomization = yaml.safe_load((directory / "kustomization.yaml").read_text())
    generators = [*kustomization.get("configMapGenerator", ()), *kustomization.get("secretGenerator", ())]
    listed = {
        *kustomization["resources"],
        *(file for generator in generators for file in (*generator.get("files", ()), *generator.get("envs", ()))),
    }
    there = {path.name for path in directory.iterdir()} - {"kustomization.yaml"}
    assert {name for name in listed if not name.startswith("..")} == there
    for name in listed:
        assert (directory / name).exists(), name
    assert [image["newTag"] for image in kustomization["images"]] == [VERSION]


@pytest.mark.parametrize("directory", [BASE, EXAMPLE], ids=["base", "example"])
def test_kustomize_builds(directory: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    built = subprocess.run(["kubectl", "kustomize", str(directory)], capture_output=True, text=True, check=True)
    resources = list(yaml.safe_load_all(built.stdout))
    for resource in resources:
        kubernetes_validate.validate(resource, "1.37", strict=True)
        if "template" in resource.get("spec", {}):
            assert resource["spec"]["template"]["spec"]["containers"][0]["image"].endswith(f"mailecho:{VERSION}")
    kinds = [resource["kind"] for resource in resources]
    assert kinds.count("ConfigMap") == 1
    assert kinds.count("Secret") == (1 if directory == EXAMPLE else 0), "the base brings no secret with it"


@pytest.mark.parametrize("directory", [BASE, EXAMPLE], ids=["base", "example"])
def test_settings_in_the_config_map_are_settings(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILECHO_CONFIG", str(directory / "mailecho.toml"))
    settings = Settings()
    assert settings.kafka.bootstrap_servers
    assert settings.clickhouse.url
    assert settings.api.port == 8080
    assert settings.api.host == "0.0.0.0"


@each_container
def test_environment_is_settings(container: dict[str, Any]) -> None:
    for variable in container["env"]:
        name = variable["name"]
        if name in NOT_SETTINGS:
            continue
        fields: Any = Settings.model_fields
        for part in name.removeprefix("MAILECHO_").lower().split("__"):
            assert part in fields, name
            fields = getattr(fields[part].annotation, "model_fields", {})


@each_container
def test_arguments_are_a_command(container: dict[str, Any]) -> None:
    command: Any = typer.main.get_command(app)
    for argument in container["args"]:
        assert argument in command.commands, container["args"]
        command = command.commands[argument]
    assert not hasattr(command, "commands"), f"{container['args']} is a group of commands"


@each_container
def test_container_is_confined(container: dict[str, Any]) -> None:
    assert container["image"] == "mailecho"
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    assert container["resources"]["limits"].keys() == {"memory"}
    assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/data", "/tmp", "/etc/mailecho"}


@pytest.mark.parametrize("name", PODS)
def test_pod_is_confined(name: str) -> None:
    spec = PODS[name]["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert f"--uid {spec['securityContext']['runAsUser']} " in DOCKERFILE
    assert not spec["automountServiceAccountToken"]
    assert not spec["enableServiceLinks"]
    assert {manifest["metadata"]["name"] for manifest in MANIFESTS if manifest["kind"] == "ServiceAccount"} == {
        spec["serviceAccountName"]
    }


@pytest.mark.parametrize("name", sorted(ROLES))
def test_role_is_probed_guarded_and_named(name: str) -> None:
    [container] = PODS[name]["spec"]["containers"]
    probe = container["livenessProbe"]
    if name == "mailecho-serve":
        assert probe["httpGet"] == {"path": "/healthz", "port": "api"}
        assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "api"}
    else:
        assert "alive-*" in probe["exec"]["command"][-1]
        assert "readinessProbe" not in container, "nobody sends it requests"
    environment = {variable["name"]: variable for variable in container["env"]}
    assert environment["MAILECHO_INSTANCE"]["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    labels = PODS[name]["metadata"]["labels"]
    [workload] = [m for m in MANIFESTS if m["kind"] in ("Deployment", "StatefulSet") and m["metadata"]["name"] == name]
    assert workload["spec"]["selector"]["matchLabels"] == labels
    [budget] = [m for m in MANIFESTS if m["kind"] == "PodDisruptionBudget" and m["metadata"]["name"] == name]
    assert budget["spec"]["selector"]["matchLabels"] == labels
    if workload["kind"] == "StatefulSet":
        assert workload["spec"]["serviceName"] in {m["metadata"]["name"] for m in MANIFESTS if m["kind"] == "Service"}


def test_the_probe_sees_a_fresh_file_and_no_old_one(tmp_path: Path) -> None:
    [container] = PODS["mailecho-ledger"]["spec"]["containers"]
    shell = [part.replace("/data", str(tmp_path)) for part in container["livenessProbe"]["exec"]["command"]]

    def alive() -> bool:
        return subprocess.run(shell, capture_output=True).returncode == 0

    assert not alive()
    settings = Settings(data_dir=tmp_path, instance="mailecho-ledger-0")
    telemetry.touch_alive(settings, "ledger")
    assert alive()
    old = time.time() - 61
    os.utime(telemetry.alive_path(settings, "ledger"), (old, old))
    assert not alive()


def test_the_ledger_keeps_its_store() -> None:
    [ledger] = [m for m in MANIFESTS if name_of(m) == "StatefulSet/mailecho-ledger"]
    assert [claim["metadata"]["name"] for claim in ledger["spec"]["volumeClaimTemplates"]] == ["data"]
    assert "data" not in {volume["name"] for volume in ledger["spec"]["template"]["spec"]["volumes"]}


def test_secrets_that_are_asked_for_are_made_by_the_example() -> None:
    lines = (EXAMPLE / "secrets.env").read_text().splitlines()
    made = {line.partition("=")[0] for line in lines if line and not line.startswith("#")}
    asked = {
        variable["valueFrom"]["secretKeyRef"]["key"]
        for container in CONTAINERS.values()
        for variable in container["env"]
        if "secretKeyRef" in variable.get("valueFrom", {})
    }
    assert asked == made


def test_placeholder_secrets_are_refused(tmp_path: Path) -> None:
    placeholder = re.search(r"^identity-key=(.*)$", (EXAMPLE / "secrets.env").read_text(), re.MULTILINE)
    assert placeholder is not None
    settings = Settings.model_validate({"data_dir": tmp_path, "identity_key": placeholder[1]})
    with pytest.raises(IdentityKeyError):
        load_identity(settings)


def test_the_image_copies_what_is_there() -> None:
    ignored = (ROOT / "deploy" / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    copied = [
        path for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE) for path in line.split()
    ]
    assert copied
    for path in copied:
        assert (ROOT / path).exists(), path
        assert f"!{path}" in ignored
    assert {path.name for path in (ROOT / "src" / "mailecho").iterdir() if path.is_symlink()} <= set(copied)


def test_the_image_is_not_root_and_locked() -> None:
    assert "--require-hashes" in DOCKERFILE
    assert "--no-index" in DOCKERFILE
    assert re.search(r"^USER 10001", DOCKERFILE, re.MULTILINE)
    assert 'ENTRYPOINT ["mailecho"]' in DOCKERFILE
