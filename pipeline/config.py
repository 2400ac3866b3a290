"""All settings, in one place: environment (`MAILECHO_…`), then one TOML file, then defaults.

Nested settings are joined by two underscores in the environment (`MAILECHO_KAFKA__BOOTSTRAP_SERVERS`)
and are tables in the file (`[kafka]`). The file is `MAILECHO_CONFIG`, else `mailecho.toml` in the
data directory, if there is one.
"""

from __future__ import annotations

import os
from pathlib import Path
from tomllib import TOMLDecodeError
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from mailecho.pipeline.trust.token import Keyring, TokenKeyError
from mailecho.schemas.topics import DAY_MS, Windows


class NoSettingsFile(RuntimeError):
    """MAILECHO_CONFIG names a file that is not there."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class KafkaSettings(_Section):
    """The cluster. Without `bootstrap_servers` the one that `mailecho up` runs is used."""

    bootstrap_servers: str = Field("", description="host:port, comma separated; empty: the embedded broker")
    partitions: int = Field(4, ge=1, le=10_000, description="Of raw and keyed topics; fixed once they exist")
    replication_factor: int = Field(1, ge=1, le=9)
    session_timeout_ms: int = Field(
        10_000,
        ge=6_000,
        le=30_000,
        description="A dead worker's partitions wait this long; Kafka refuses less than 6 s",
    )
    pace_ms: int = Field(
        200,
        ge=0,
        le=5_000,
        description="How long the broker gathers records for one fetch of a consumer (0: not at all). At live rates "
        "cost is per wake-up, not per event: each halving costs the whole system about a sixth more CPU at 1,000 "
        "events/s. A record waits half of it on average, at each of the three hops to the lookup and to ClickHouse. "
        "A backlog waits for nothing, and neither does the first record after a silence",
    )
    heap_mb: int = Field(512, ge=128, description="Heap of the embedded broker")


class ClickHouseSettings(_Section):
    """The database. Without `url` the embedded engine that `mailecho up` runs is used."""

    url: str = Field("", description="http(s)://host:port; empty: the embedded engine")
    database: str = Field("mailecho", pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    user: str = "default"
    password: SecretStr = SecretStr("")


class ApiSettings(_Section):
    """Lookup API and status page. Any address but loopback needs a token."""

    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    token: SecretStr = SecretStr("")


class LanderSettings(_Section):
    """When a range of events is inserted."""

    flush_seconds: float = Field(
        1.0,
        gt=0,
        le=60,
        description="Least time from one range of a partition to its next: most that a row waits. The dedup window "
        "counts blocks, and each costs ClickHouse about 50 ms of CPU, however small: by the second, not faster",
    )
    flush_rows: int = Field(50_000, ge=1, le=500_000)
    flush_bytes: int = Field(48 * 1024 * 1024, ge=64 * 1024)
    check_minutes: float = Field(
        10.0, ge=0, description="Between checks that the rollups count all events of today and yesterday; 0: none"
    )


class DeadLetterSettings(_Section):
    """When classify stops with exit code 78 instead of sending on to the dead letters; counted by partition."""

    max_consecutive: int = Field(
        1_000, ge=0, description="So many records in a row that cannot be read stop it; 0: no limit"
    )
    max_ratio: float = Field(
        0.5, ge=0, le=1, description="A larger share of the last `window` records stops it; 1: no limit"
    )
    window: int = Field(
        2_000, ge=1, description="Records; below so many the share stops nothing, so a few bad ones never do"
    )


class RetentionSettings(_Section):
    """How long ClickHouse keeps what; `mailecho migrate` and `up` alter the tables to it. Shorter deletes at once."""

    events_days: int = Field(
        90, ge=8, description="Events, and the rollup of a quarter hour by the full key: longer than feedback.events"
    )
    minute_days: int = Field(14, ge=8, description="Rollups by the minute")
    hour_months: int = Field(13, ge=1, description="Rollups by the hour")
    day_years: int = Field(5, ge=1, description="The rollup by the day")


class WindowSettings(_Section):
    """Dedupe windows. Retention of the topics follows from them."""

    delivery_days: float = Field(3.0, gt=0, le=30)
    report_days: float = Field(15.0, gt=0, le=60)


class TokenSettings(_Section):
    """Signed tokens in our mail, by which a report proves that it is about it (`mailecho token --help`)."""

    keys: tuple[SecretStr, ...] = Field(
        (),
        description='"VERSION:HEX" each, HEX of 16 bytes or more: the highest version signs, all verify',
    )
    bounce_domains: tuple[str, ...] = Field(
        (), description="Domains of our return paths (VERP): the first is what `mailecho token make` uses"
    )
    message_id_domains: tuple[str, ...] = Field(
        (), description="Domains at the right of our Message-IDs, where these are not own_domains"
    )
    required: bool = Field(
        False,
        description="All our return paths or Message-IDs carry a token: a bounce that names one without is backscatter",
    )

    @field_validator("keys")
    @classmethod
    def _readable(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        try:
            Keyring.parse(key.get_secret_value() for key in keys)
        except TokenKeyError as error:  # pydantic names the field itself
            raise ValueError(str(error).removeprefix("tokens.keys: ")) from None
        return keys

    @property
    def keyring(self) -> Keyring:
        """The keys, ready for use."""
        return Keyring.parse(key.get_secret_value() for key in self.keys)


class SentrySettings(_Section):
    """Errors go to Sentry when a DSN is set, with addresses and bodies scrubbed."""

    dsn: SecretStr = SecretStr("")
    environment: str = "production"


class Settings(BaseSettings):
    """Mailecho's settings. `mailecho` prints where each may be set when one is wrong."""

    model_config = SettingsConfigDict(
        env_prefix="MAILECHO_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,  # it may be a secret, and errors reach logs
        nested_model_default_partial_update=True,
    )

    data_dir: Path = Field(Path("mailecho-data"), description="Stores, embedded broker and engine, identity key")
    kafka: KafkaSettings = KafkaSettings()
    clickhouse: ClickHouseSettings = ClickHouseSettings()
    api: ApiSettings = ApiSettings()
    lander: LanderSettings = LanderSettings()
    retention: RetentionSettings = RetentionSettings()
    dead_letters: DeadLetterSettings = DeadLetterSettings()
    windows: WindowSettings = WindowSettings()
    tokens: TokenSettings = TokenSettings()
    sentry: SentrySettings = SentrySettings()
    policy_file: Path | None = Field(None, description="TOML; the default policy without it")
    identity_key: SecretStr = Field(
        SecretStr(""),
        description="Hex, 32 bytes or more; made in the data directory at first start without it",
    )
    own_domains: tuple[str, ...] = Field(
        (), description="Domains we send from: a returned message naming one is plausible"
    )
    own_mtas: tuple[str, ...] = Field((), description="Our MTAs whose logs we read: their DSNs are marked echo")
    addresses: Literal["clear", "none"] = Field("clear", description="Whether the suppression list holds addresses")
    accept_gap: bool = Field(
        False, description="Go on past records that expired before they were read; each such gap is logged"
    )
    instance: str = Field("0", pattern=r"^[A-Za-z0-9._-]{1,60}$", description="Static group member of this process")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        sources: list[PydanticBaseSettingsSource] = [init_settings, env_settings]
        file = config_file(init_settings().get("data_dir"))
        if file is not None:
            sources.append(TomlConfigSettingsSource(settings_cls, toml_file=file))
        return tuple(sources)

    @property
    def dedupe_windows(self) -> Windows:
        """The dedupe windows in milliseconds."""
        return Windows(int(self.windows.delivery_days * DAY_MS), int(self.windows.report_days * DAY_MS))


def config_file(data_dir: Any = None) -> Path | None:
    """The TOML file in force, or None: MAILECHO_CONFIG, else mailecho.toml in the data directory.

    Raises NoSettingsFile.
    """
    named = os.environ.get("MAILECHO_CONFIG")
    if named:
        if not Path(named).is_file():
            raise NoSettingsFile(f"MAILECHO_CONFIG names {Path(named).absolute()}: there is no such file")
        return Path(named)
    file = Path(data_dir or os.environ.get("MAILECHO_DATA_DIR") or "mailecho-data") / "mailecho.toml"
    return file if file.is_file() else None


def load(data_dir: Path | None = None, **overrides: Any) -> Settings:
    """Settings from environment and file; arguments win.

    Raises NoSettingsFile, TOMLDecodeError, SettingsError (a variable that should be JSON) and pydantic's
    ValidationError, which names the field; the path of the file that was read is a note of these errors.
    """
    if data_dir is not None:
        overrides["data_dir"] = data_dir
    try:
        return Settings(**overrides)
    except (ValidationError, TOMLDecodeError, SettingsError) as error:
        if file := config_file(data_dir):
            error.add_note(str(file.absolute()))
        raise
