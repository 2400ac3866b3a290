"""The command line without a running system: help, usage, errors in one or two lines."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import orjson
import pytest
from typer.main import get_command

from mailecho.pipeline.cli import app
from mailecho.pipeline.commands.base import counted, time_text
from mailecho.pipeline.config import Settings
from mailecho.pipeline.identity import Identity, load_identity
from mailecho.pipeline.sources import SOURCES
from mailecho.schemas import export

HEAVY = ("chdb", "faust", "flanker", "aiokafka", "clickhouse_connect", "fastapi", "pydantic", "sentry_sdk")


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """An environment in which no setting is made and no `up` is known."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MAILECHO_")}
    return {**clean, "XDG_STATE_HOME": str(tmp_path / "state"), "COLUMNS": "200", "NO_COLOR": "1"}


def mailecho(env: dict[str, str], *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mailecho.pipeline.cli", *arguments]
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=120)


def commands() -> list[tuple[str, ...]]:
    """Every command of the tree, hidden ones too."""
    found: list[tuple[str, ...]] = []

    def walk(command: object, path: tuple[str, ...]) -> None:
        children = getattr(command, "commands", None)
        if children is None:
            found.append(path)
        for name, child in (children or {}).items():
            walk(child, (*path, name))

    walk(get_command(app), ())
    return found


def test_the_commands_are_those_of_the_design() -> None:
    assert {" ".join(path) for path in commands()} >= {
        "up",
        "worker classify",
        "worker ledger",
        "lander",
        "serve",
        "classify",
        "explain",
        "rules list",
        "rules check",
        "templates",
        "bench classify",
        "bench landing",
        "bench latency",
        "bench memory",
        "bench dsn",
        "bench lookup",
        "bench volume",
        "intake files",
        "intake maildir",
        "intake mbox",
        "suppressions check",
        "suppressions add",
        "suppressions release",
        "suppressions list",
        "key",
        "topics apply",
        "migrate",
        "schema export",
        "dlq list",
        "dlq redrive",
        "token make",
        "token verify",
        "verify",
        "sql",
        "status",
        "reconcile",
        "version",
    }


def test_every_help_teaches_with_an_example() -> None:
    tree = get_command(app)
    for path in commands():
        command = tree
        for name in path:
            command = command.commands[name]  # type: ignore[attr-defined]
        if not command.hidden:
            assert "Example:" in (command.help or ""), path


def test_help_needs_nothing_heavy(env: dict[str, str]) -> None:
    program = (
        "import sys\nfrom mailecho.pipeline.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"loaded = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not loaded, loaded\n"
    )
    ran = subprocess.run([sys.executable, "-c", program, "--help"], env=env, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stderr
    assert "suppressions" in ran.stdout


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nonsense"], "nonsense"),
        (["key"], "ADDRESS"),
        (["up", "--port", "70000"], "--port"),
        (["worker", "classify", "--processes", "0"], "--processes"),
        (["suppressions", "add", "a@example.com", "--scope", "planet"], "--scope"),
        (["suppressions", "add", "a@example.com", "--scope", "stream"], "--stream"),
        (["suppressions", "add", "nonsense"], "neither an address nor a domain"),
        (["suppressions", "add", "us er@exam ple.com"], "no address"),
        (["suppressions", "add", "a@example.com", "--scope", "tenant", "--stream", "news"], "--stream"),
        (["suppressions", "add", "a@example.com", "--scope", "global", "--tenant", "shop"], "--tenant"),
        (["suppressions", "add", "a@example.com", "--reason", "asked by phone"], "--reason"),
        (["suppressions", "list", "--state", "bogus"], "--state"),
        (["suppressions", "list", "--scope", "planet"], "--scope"),
        (["key", "nobody"], "no address"),
        (["dlq", "list", "bogus"], "dead-letter topics"),
        (["dlq", "list", "--reason", "bogus"], "--reason"),
        (["dlq", "redrive", "feedback.raw.dsn", "--reason", "bogus"], "--reason"),
        (["intake", "files", "x", "--source", "bogus"], "mailecho, postfix"),
        (["intake", "files", "x", "--topic", "feedback.events"], "--topic"),
        (["dlq", "redrive", "feedback.raw.dsn", "--on-error", "explode"], "--on-error"),
        (["dlq", "redrive", "feedback.raw.dsn", "--on-error", "drop"], "--for-good"),
        (["dlq", "redrive", "feedback.raw.dsn", "--for-good"], "--on-error"),
        (["explain", "550 no", "--stage", "lunch"], "--stage"),
        (["rules", "list", "--cause", "bad_luck"], "--cause"),
    ],
)
def test_wrong_usage_is_exit_2_and_named(env: dict[str, str], tmp_path: Path, arguments: list[str], named: str) -> None:
    ran = mailecho(env, *arguments, cwd=tmp_path)
    assert ran.returncode == 2, ran.stderr
    assert named in ran.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["sql", "SELECT 1"], ("MAILECHO_CLICKHOUSE__URL", "mailecho up")),
        (["intake", "files", "."], ("MAILECHO_KAFKA__BOOTSTRAP_SERVERS", "mailecho up")),
        (["topics", "apply"], ("MAILECHO_KAFKA__BOOTSTRAP_SERVERS",)),
        (["migrate"], ("MAILECHO_CLICKHOUSE__URL",)),
        (["templates"], ("MAILECHO_CLICKHOUSE__URL", "mailecho up")),
        (["dlq", "list"], ("MAILECHO_KAFKA__BOOTSTRAP_SERVERS",)),
        (["key", "user@example.com"], ("identity key", "mailecho up")),
        (["suppressions", "check", "user@example.com"], ("identity key",)),
        (["suppressions", "add", "user@example.com"], ("MAILECHO_KAFKA__BOOTSTRAP_SERVERS",)),
        (["suppressions", "list"], ("does not answer",)),
    ],
)
def test_errors_are_short_and_say_the_way_on(
    env: dict[str, str], tmp_path: Path, arguments: list[str], words: tuple[str, ...]
) -> None:
    env["MAILECHO_API__PORT"] = "1"  # nobody listens there
    ran = mailecho(env, *arguments, cwd=tmp_path)
    assert ran.returncode == 1
    assert ran.stdout == ""
    assert "Traceback" not in ran.stderr
    assert len(ran.stderr.splitlines()) <= 2, ran.stderr
    for word in words:
        assert word in ran.stderr


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("MAILECHO_KAFKA__PARTITIONS", "many", ("kafka.partitions", "MAILECHO_KAFKA__PARTITIONS", "many")),
        ("MAILECHO_API__PORT", "99999", ("api.port", "MAILECHO_API__PORT")),
        ("MAILECHO_OWN_DOMAINS", "example.com", ("own_domains", "MAILECHO_OWN_DOMAINS=", "JSON list")),
        ("MAILECHO_KAFKA", "here", ("MAILECHO_KAFKA__NAME",)),
        ("MAILECHO_KAFKA__NONSENSE", "1", ("kafka.nonsense: there is no such setting", "MAILECHO_KAFKA__NONSENSE")),
        ("MAILECHO_CONFIG", "nowhere.toml", ("MAILECHO_CONFIG", "nowhere.toml: there is no such file")),
    ],
)
def test_a_wrong_setting_is_named(
    env: dict[str, str], tmp_path: Path, variable: str, value: str, words: tuple[str, ...]
) -> None:
    ran = mailecho({**env, variable: value}, "status", "--data-dir", str(tmp_path))
    assert ran.returncode == 1
    assert len(ran.stderr.splitlines()) <= 2, ran.stderr
    for word in words:
        assert word in ran.stderr


def test_a_settings_file_that_is_not_toml_is_named(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "mailecho.toml").write_text("[kafka\n")
    ran = mailecho(env, "status", "--data-dir", str(tmp_path))
    assert ran.returncode == 1
    assert str(tmp_path / "mailecho.toml") in ran.stderr
    assert len(ran.stderr.splitlines()) <= 2


def test_an_error_of_the_file_names_the_file_and_not_the_environment(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "mailecho.toml").write_text("[kafka]\npartitions = 'many'\n")
    ran = mailecho(env, "status", "--data-dir", str(tmp_path))
    assert ran.stderr.endswith(f"(it is 'many'), set in {tmp_path / 'mailecho.toml'}\n")
    assert "MAILECHO_" not in ran.stderr
    ran = mailecho({**env, "MAILECHO_KAFKA__PARTITIONS": "none"}, "status", "--data-dir", str(tmp_path))
    assert ran.stderr.endswith("(it is 'none'), set by MAILECHO_KAFKA__PARTITIONS\n")


@pytest.mark.parametrize(
    "text",
    [
        "[api]\ntoken = 4711\n",
        "[clickhouse]\npassword = 4711\n",
        "[sentry]\ndsn = 4711\n",
        "identity_key = 4711\n",
        "[clickhouse]\npasword = '4711'\n",  # a typo
        "api = '4711'\n",
    ],
)
def test_errors_show_no_secret(env: dict[str, str], tmp_path: Path, text: str) -> None:
    (tmp_path / "settings.toml").write_text(text)
    env |= {"MAILECHO_CONFIG": str(tmp_path / "settings.toml"), "MAILECHO_DEBUG": "1"}
    ran = mailecho(env, "status", cwd=tmp_path)
    assert ran.returncode == 1
    assert "settings.toml" in ran.stderr
    assert "4711" not in ran.stderr.replace(str(tmp_path), "")


def test_debug_shows_the_traceback(env: dict[str, str], tmp_path: Path) -> None:
    ran = mailecho({**env, "MAILECHO_DEBUG": "1"}, "topics", "apply", cwd=tmp_path)
    assert ran.returncode == 1
    assert "Traceback" in ran.stderr
    assert ran.stderr.splitlines()[-1].startswith("mailecho: no kafka address")


def test_a_role_that_its_settings_forbid_exits_78(env: dict[str, str], tmp_path: Path) -> None:
    ran = mailecho({**env, "MAILECHO_API__PORT": "99999"}, "serve", "--data-dir", str(tmp_path))
    assert ran.returncode == 78
    assert "api.port" in ran.stderr


def test_key_is_the_recipient_key(env: dict[str, str], tmp_path: Path) -> None:
    load_identity(Settings(data_dir=tmp_path), create=True)
    expected = load_identity(Settings(data_dir=tmp_path)).recipient_key("user@example.com")
    ran = mailecho(env, "key", "<User@EXAMPLE.com>", "--data-dir", str(tmp_path))
    assert (ran.returncode, ran.stdout) == (0, expected + "\n")
    other = mailecho({**env, "MAILECHO_IDENTITY_KEY": "aa" * 32}, "key", "user@example.com", cwd=tmp_path)
    assert other.stdout.strip() == Identity(bytes.fromhex("aa" * 32)).recipient_key("user@example.com")


def test_a_token_made_is_a_token_verified(env: dict[str, str], tmp_path: Path) -> None:
    keys = {**env, "MAILECHO_TOKENS__KEYS": f'["1:{"ab" * 32}"]', "MAILECHO_IDENTITY_KEY": "aa" * 32}
    where = ["--bounce-domain", "bounces.example.com", "--data-dir", str(tmp_path)]
    made = mailecho(keys, "token", "make", "5f3a09", "--to", "user@example.com", "--tenant", "shop", "--json", *where)
    assert made.returncode == 0, made.stderr
    answer = orjson.loads(made.stdout)
    assert answer["places"]["MAIL FROM"] == f"<b-{answer['token']}@bounces.example.com>"
    ran = mailecho(keys, "token", "verify", answer["places"]["Message-ID"], "--json", "--data-dir", str(tmp_path))
    said = orjson.loads(ran.stdout)
    assert (said["valid"], said["tenant"], said["message"]) == (True, "shop", "5f3a09")
    assert said["recipient_key"] == Identity(bytes.fromhex("aa" * 32)).recipient_key("user@example.com")
    other = {**keys, "MAILECHO_TOKENS__KEYS": f'["1:{"cd" * 32}"]'}
    refused = mailecho(other, "token", "verify", answer["token"], "--data-dir", str(tmp_path))
    assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
    assert "forged" in refused.stderr
    without = mailecho(env, "token", "make", "1", *where)
    assert without.returncode == 1
    assert "MAILECHO_TOKENS__KEYS" in without.stderr
    nothing = mailecho(env, "token", "make", "1", "--to", "user@example.com", "--data-dir", str(tmp_path))
    for lacking in ("MAILECHO_TOKENS__KEYS", "--bounce-domain", "MAILECHO_IDENTITY_KEY"):
        assert lacking in nothing.stderr, "all that lacks is told at once"


def test_a_reply_in_a_file_is_told_from_mail(env: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "reply.txt"
    file.write_text("550 5.1.1 <a@example.com>: no such user\n")
    said = mailecho(env, "explain", str(file))
    assert said.returncode == 1
    assert "a server's reply, and no mail" in said.stdout


def test_schema_export_writes_and_checks(env: dict[str, str], tmp_path: Path) -> None:
    target = tmp_path / "contracts"
    assert mailecho(env, "schema", "export", str(target)).returncode == 0
    assert {path.name for path in target.iterdir()} == set(export.export())
    assert mailecho(env, "schema", "export", str(target), "--check").returncode == 0
    spoilt = next(iter(sorted(target.iterdir())))
    spoilt.write_text("{}")
    ran = mailecho(env, "schema", "export", str(target), "--check")
    assert ran.returncode == 1
    assert spoilt.name in ran.stderr


def test_classify_needs_no_system(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "bounce.eml").write_bytes(
        b"From: MAILER-DAEMON@mail.example.org\r\nTo: <list@example.com>\r\nSubject: failure notice\r\n\r\n"
        b"Hi. This is the qmail-send program at mail.example.org.\r\n"
        b"I'm afraid I wasn't able to deliver your message to the following addresses.\r\n"
        b"This is a permanent error; I've given up. Sorry it didn't work out.\r\n\r\n"
        b"<user@example.net>:\r\nRemote host said: 550 5.1.1 No such user here\r\n"
    )
    ran = mailecho(env, "classify", str(tmp_path / "bounce.eml"), "--jsonl")
    (line,) = [orjson.loads(text) for text in ran.stdout.splitlines()]
    assert ran.returncode == 0, ran.stderr
    assert (line["kind"], line["recipient"], line["cause"]) == ("bounce", "user@example.net", "mailbox_unknown")
    (tmp_path / "empty.eml").write_bytes(b"")
    assert mailecho(env, "classify", str(tmp_path), "--jsonl").returncode == 1
    missing = mailecho(env, "classify", str(tmp_path / "nowhere"))
    assert missing.returncode == 1
    assert "nowhere" in missing.stderr
    assert len(missing.stderr.splitlines()) == 1


def test_version(env: dict[str, str]) -> None:
    ran = mailecho(env, "version")
    assert (ran.returncode, ran.stdout.count("\n")) == (0, 1)
    assert mailecho(env, "--version").stdout == ran.stdout


def test_help_of_source_names_the_sources() -> None:
    text = get_command(app).commands["intake"].commands["files"].params  # type: ignore[attr-defined]
    (shown,) = [option.help for option in text if option.name == "source"]
    assert " or ".join(SOURCES) in shown


def test_words_for_people() -> None:
    assert [counted(n, "record") for n in (0, 1, 2_000)] == ["0 records", "1 record", "2,000 records"]
    assert counted(3, "entry") == "3 entries"
    assert time_text("2026-11-24T08:34:21.000Z") == "2026-11-24 08:34 UTC"


def test_no_broker_is_one_clear_line(env: dict[str, str], tmp_path: Path) -> None:
    env |= {"MAILECHO_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1", "MAILECHO_API__PORT": "1"}
    for arguments in (("status",), ("suppressions", "add", "user@example.com")):
        said = mailecho(env, *arguments, "--data-dir", str(tmp_path)).stderr
        (line,) = [line for line in said.splitlines() if "127.0.0.1:1:" in line]
        assert "no Kafka broker answers at 127.0.0.1:1: start one with `mailecho up`" in line
        assert "AddressFamily" not in said


class _Refuses(BaseHTTPRequestHandler):
    """An API that asks for a token."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = b'{"error":{"code":"unauthorized","message":"send the token","field":"Authorization"}}'
        self.send_response(401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.mark.parametrize("command", ["add", "release"])
def test_nothing_is_sent_where_the_api_refuses(env: dict[str, str], tmp_path: Path, command: str) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Refuses) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        # no broker answers there either: had it been asked first, its error would stand here
        env |= {"MAILECHO_API__PORT": str(server.server_port), "MAILECHO_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}
        ran = mailecho(env, "suppressions", command, "user@example.com", "--data-dir", str(tmp_path))
        server.shutdown()
        thread.join()
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "nothing was sent: Authorization: send the token" in ran.stderr
    assert "MAILECHO_API__TOKEN" in ran.stderr


def test_status_of_nothing_is_complete_json(env: dict[str, str], tmp_path: Path) -> None:
    ran = mailecho({**env, "MAILECHO_API__PORT": "1"}, "status", "--json", "--data-dir", str(tmp_path))
    assert ran.returncode == 1
    shown = orjson.loads(ran.stdout)
    assert set(shown["errors"]) == {"kafka", "clickhouse", "api"}
    assert shown["balanced"] is None
    assert shown["raw"] is None
    assert shown["processes"] == []


def test_explain_shows_the_matched_words(env: dict[str, str], tmp_path: Path) -> None:
    ran = mailecho(env, "explain", "550 5.7.1 <a@example.com>: User unknown", cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert "mailbox_unknown" in ran.stdout
    assert "[User unknown]" in ran.stdout
    ran = mailecho(env, "explain", "550 5.2.2 full", "--json", cwd=tmp_path)
    assert orjson.loads(ran.stdout)["cause"] == "mailbox_full"


def test_explain_of_a_file_that_is_not_there(env: dict[str, str], tmp_path: Path) -> None:
    ran = mailecho(env, "explain", "bounces/one.eml", cwd=tmp_path)
    assert ran.returncode == 1
    assert "no such file" in ran.stderr


def test_explain_reads_log_lines_of_a_source(env: dict[str, str], tmp_path: Path) -> None:
    line = (
        "Mar  3 09:00:00 mx1 postfix/smtp[77]: 4F1A2B3C4D: to=<a@example.com>, relay=mx.example.com[192.0.2.1]:25, "
        "delay=1, delays=0/0/0/1, dsn=5.2.2, status=bounced (host mx.example.com[192.0.2.1] said: 552 5.2.2 full)\n"
    )
    (tmp_path / "mail.log").write_text(line * 2)
    ran = mailecho(env, "explain", "mail.log", "--source", "postfix", "--json", cwd=tmp_path)
    found = orjson.loads(ran.stdout)
    assert [(one["recipient"], one["cause"], one["trust"]) for one in found] == [
        ("a@example.com", "mailbox_full", "verified")
    ] * 2
    ran = mailecho(env, "explain", line, "--source", "nobody", cwd=tmp_path)
    assert ran.returncode == 1
    assert "no adapter reads it" in ran.stdout
