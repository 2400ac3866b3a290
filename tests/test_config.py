"""Settings: where they come from, which wins, and errors that name the field."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from mailecho.pipeline import config, settings_doc
from mailecho.pipeline.config import Settings
from mailecho.schemas.topics import DAY_MS

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def no_settings_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("MAILECHO_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def file(directory: Path, text: str, name: str = "mailecho.toml") -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text(text)
    return path


def test_defaults() -> None:
    settings = config.load()
    assert settings == Settings()
    assert settings.kafka.partitions == 4
    assert settings.api.host == "127.0.0.1", "loopback unless told otherwise"
    assert settings.dedupe_windows.delivery_ms == 3 * DAY_MS
    assert settings.dedupe_windows.report_ms == 15 * DAY_MS


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILECHO_KAFKA__BOOTSTRAP_SERVERS", "k1:9092,k2:9092")
    monkeypatch.setenv("MAILECHO_OWN_DOMAINS", '["example.com", "example.org"]')
    monkeypatch.setenv("MAILECHO_LANDER__FLUSH_ROWS", "7")
    monkeypatch.setenv("MAILECHO_WINDOWS__REPORT_DAYS", "0.001")
    settings = config.load()
    assert settings.kafka.bootstrap_servers == "k1:9092,k2:9092"
    assert settings.own_domains == ("example.com", "example.org")
    assert settings.lander.flush_rows == 7
    assert settings.dedupe_windows.report_ms == 86_400


def test_token_keys_are_checked_at_once_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILECHO_TOKENS__KEYS", f'["1:{"ab" * 32}", "2:{"cd" * 32}"]')
    assert config.load().tokens.keyring.newest == 2
    assert "abab" not in repr(config.load())
    monkeypatch.setenv("MAILECHO_TOKENS__KEYS", f'["1:{"ab" * 32}", "1:{"cd" * 32}"]')
    with pytest.raises(ValidationError, match="version 1 stands twice") as caught:
        config.load()
    assert "abab" not in str(caught.value)


def test_an_argument_wins_over_the_environment_over_the_file_over_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(
        "MAILECHO_CONFIG",
        str(file(tmp_path, 'instance = "file"\nlog_level = "ERROR"\nown_domains = ["example.com"]\n', "x.toml")),
    )
    monkeypatch.setenv("MAILECHO_INSTANCE", "environment")
    monkeypatch.setenv("MAILECHO_LOG_LEVEL", "WARNING")
    settings = config.load(instance="argument")
    assert settings.instance == "argument"
    assert settings.log_level == "WARNING"
    assert settings.own_domains == ("example.com",)
    assert settings.addresses == "clear"


def test_a_section_may_come_in_parts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MAILECHO_CONFIG", str(file(tmp_path, "[kafka]\npartitions = 8\npace_ms = 0\n", "x.toml")))
    monkeypatch.setenv("MAILECHO_KAFKA__BOOTSTRAP_SERVERS", "k1:9092")
    monkeypatch.setenv("MAILECHO_KAFKA__PACE_MS", "10")
    kafka = config.load().kafka
    assert (kafka.bootstrap_servers, kafka.partitions, kafka.pace_ms, kafka.heap_mb) == ("k1:9092", 8, 10, 512)


def test_the_file_is_looked_for_in_the_data_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert config.config_file() is None
    there = file(tmp_path / "a", 'instance = "a"\n')
    assert config.config_file(tmp_path / "a") == there
    assert config.load(tmp_path / "a").instance == "a"
    monkeypatch.setenv("MAILECHO_DATA_DIR", str(tmp_path / "a"))
    assert config.load().instance == "a"
    file(tmp_path / "mailecho-data", 'instance = "default"\n')
    monkeypatch.delenv("MAILECHO_DATA_DIR")
    assert config.load().instance == "default"
    monkeypatch.setenv("MAILECHO_CONFIG", str(file(tmp_path, 'instance = "named"\n', "b.toml")))
    assert config.load(tmp_path / "a").instance == "named"


@pytest.mark.parametrize(
    ("name", "value", "field"),
    [
        ("MAILECHO_KAFKA__PARTITIONS", "none", "kafka.partitions"),
        ("MAILECHO_KAFKA__PARTITIONS", "0", "kafka.partitions"),
        ("MAILECHO_KAFKA__SESSION_TIMEOUT_MS", "5999", "kafka.session_timeout_ms"),
        ("MAILECHO_CLICKHOUSE__DATABASE", "a; DROP", "clickhouse.database"),
        ("MAILECHO_API__PORT", "65536", "api.port"),
        ("MAILECHO_LANDER__FLUSH_SECONDS", "0", "lander.flush_seconds"),
        ("MAILECHO_LOG_LEVEL", "LOUD", "log_level"),
        ("MAILECHO_ADDRESSES", "some", "addresses"),
        ("MAILECHO_INSTANCE", "a/b", "instance"),
        ("MAILECHO_KAFKA__BOOTSTRAP_SERVER", "k1:9092", "kafka.bootstrap_server"),  # a typo
    ],
)
def test_an_error_in_the_environment_names_the_field(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, field: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError) as refused:
        config.load()
    assert [".".join(map(str, error["loc"])) for error in refused.value.errors()] == [field]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("[kafka]\npartitons = 8\n", "kafka.partitons"),
        ("[kafak]\npartitions = 8\n", "kafak"),
        ("partitions = 8\n", "partitions"),
        ("[api]\nport = 'x'\n", "api.port"),
    ],
)
def test_an_error_in_the_file_names_the_field(tmp_path: Path, text: str, field: str) -> None:
    file(tmp_path, text)
    with pytest.raises(ValidationError) as refused:
        config.load(tmp_path)
    assert [".".join(map(str, error["loc"])) for error in refused.value.errors()] == [field]


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IDENTITY_KEY", "API__TOKEN", "CLICKHOUSE__PASSWORD", "SENTRY__DSN"):
        monkeypatch.setenv(f"MAILECHO_{name}", "c0ffee")
    settings = config.load()
    assert settings.api.token.get_secret_value() == "c0ffee"
    assert "c0ffee" not in repr(settings) + settings.model_dump_json()


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        Settings().instance = "1"  # type: ignore[misc]


def test_the_page_of_settings_is_current() -> None:
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == settings_doc.render(), "run `python -m mailecho.pipeline.settings_doc > docs/settings.md`"


def test_the_page_has_every_setting() -> None:
    page = settings_doc.render()
    for name, section in Settings().model_dump().items():
        for key in section if isinstance(section, dict) else [None]:
            assert f"`{name}.{key}`" in page if key else f"| `{name}` |" in page
