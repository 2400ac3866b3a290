"""What all commands share: which data they talk to, and how an error reads.

Exit codes: 0 done, 1 failed or refused, 2 wrong usage; a role that its settings forbid to start
exits with 78, so that whoever supervises it does not try in vain.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

if TYPE_CHECKING:
    from pydantic import ValidationError
    from rich.console import Console

    from mailecho.pipeline.config import Settings

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        show_default=False,
        help="Of the running `mailecho up`; without it MAILECHO_DATA_DIR, else the one `up` that you run.",
    ),
]

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

RUN, FEED, LIST, OPERATE = "Run", "Feed and classify", "Suppressions", "Operate"

#: Columns; longer than any line that is printed, so that no cell is cut.
UNBOUNDED = 10_000

#: Any of these says which system is meant, so that no running `up` is looked for.
_NAMED_BY = ("MAILECHO_DATA_DIR", "MAILECHO_KAFKA__BOOTSTRAP_SERVERS", "MAILECHO_CONFIG")


class Failed(RuntimeError):
    """A command cannot go on; the message says why and what to do."""


def settings_of(data_dir: Path | None) -> Settings:
    """The settings of the system that is meant. Raises Ambiguous, and what config.load raises."""
    from mailecho.pipeline import config

    if data_dir is None and not any(os.environ.get(name) for name in _NAMED_BY):
        from mailecho.pipeline.supervise.claim import the_running_one

        data_dir = the_running_one()
    return config.load(data_dir)


def console(*, stderr: bool = False) -> Console:
    """Where people read: colours only on a terminal, and a file or pipe gets every line whole."""
    from rich.console import Console

    plain = Console(stderr=stderr, highlight=False)
    return plain if plain.is_terminal else Console(stderr=stderr, highlight=False, width=UNBOUNDED)


def counted(number: int, noun: str) -> str:
    """`1 record`, `2,000 records`: a noun whose plural has only an s more, or -ies for -y."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number:,} {noun if number == 1 else plural}"


def time_text(rfc3339: str) -> str:
    """A time for people, `2026-11-24 08:34 UTC`, from one of the API (`2026-11-24T08:34:00.000Z`)."""
    return f"{rfc3339[:16].replace('T', ' ')} UTC"


def print_json(value: Any) -> None:
    """One JSON document on standard output, indented for a terminal."""
    import orjson

    options = orjson.OPT_INDENT_2 if sys.stdout.isatty() else 0
    sys.stdout.write(orjson.dumps(value, option=options, default=str).decode() + "\n")


def note(text: str) -> None:
    """A word to the person at the terminal, apart from the command's output."""
    typer.echo(text, err=True)


def fail(error: BaseException, code: int = 1) -> NoReturn:
    """End with an error in one or two lines; with MAILECHO_DEBUG=1 the traceback comes first."""
    if os.environ.get("MAILECHO_DEBUG") == "1":
        import traceback

        traceback.print_exception(error)
    note(f"mailecho: {explain(error) or _unexpected(error)}")
    raise SystemExit(code)


def is_refusal(error: BaseException) -> bool:
    """Whether a person must act: a wrong setting, or one of our own errors, whose messages say what to do."""
    from pydantic import ValidationError

    origin = type(error).__module__
    return isinstance(error, ValidationError | tomllib.TOMLDecodeError) or origin.startswith(
        ("mailecho.", "pydantic_settings")
    )


def explain(error: BaseException) -> str | None:
    """An expected error in words, or None for one that nobody foresaw."""
    from pydantic import ValidationError

    origin = type(error).__module__
    if isinstance(error, ValidationError):
        return _explain_validation(error)
    if isinstance(error, tomllib.TOMLDecodeError):
        return f"settings file {_file_of(error) or 'mailecho.toml'} is not TOML: {error}"
    if origin.startswith("mailecho."):
        return str(error)
    if origin.startswith("pydantic_settings"):
        return _explain_not_json(error)
    if type(error).__name__ == "KafkaConnectionError":
        from mailecho.pipeline.partitions import no_broker

        return no_broker(_brokers(error))
    if origin.startswith("aiokafka"):
        return f"Kafka: {error or type(error).__name__}. Is the broker of MAILECHO_KAFKA__BOOTSTRAP_SERVERS up?"
    if origin.startswith("clickhouse_connect"):
        return f"ClickHouse: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return None


def _brokers(error: BaseException) -> str:
    """Which brokers aiokafka tried, from the sockets in its text."""
    tried = re.findall(r"\('([^']+)', (\d+)", str(error))
    return ", ".join(":".join(each) for each in tried) or "the address that is set"


def _explain_validation(error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_url=False):
        path = [str(part) for part in problem["loc"]]
        name = ".".join(path) or error.title
        value = problem.get("input")
        ours = error.title == "Settings"
        shown = f" (it is {value!r})" if isinstance(value, str | int | float) and not (ours and _hidden(path)) else ""
        message = "there is no such setting" if ours and problem["type"] == "extra_forbidden" else problem["msg"]
        message = message.removeprefix("Value error, ")
        lines.append(f"{name}: {message}{shown}{_where_set(path, error) if ours else ''}")
    return "\n".join(lines[:2])


def _hidden(path: list[str]) -> bool:
    """Whether the value of a setting is a secret, or may be one: of a whole section, or under a misspelt name."""
    from pydantic import BaseModel, SecretStr

    from mailecho.pipeline.config import Settings

    kind: Any = Settings
    for part in path:
        known = kind.model_fields if isinstance(kind, type) and issubclass(kind, BaseModel) else {}
        if part not in known:
            return not part.isdigit()  # a number is a place in a list
        kind = known[part].annotation
    return isinstance(kind, type) and issubclass(kind, BaseModel | SecretStr)


def _where_set(path: list[str], error: BaseException) -> str:
    """Where a value came from: the environment wins over the file, and arguments over both."""
    for length in range(len(path), 0, -1):
        variable = f"MAILECHO_{'__'.join(path[:length])}".upper()
        if variable in os.environ:
            return f", set by {variable}"
    file = _file_of(error)
    return f", set in {file}" if file else ""


def _explain_not_json(error: BaseException) -> str:
    """A variable of the environment that should be JSON; pydantic-settings names only the field."""
    from mailecho.pipeline.config import Settings

    found = re.search(r'field "(\w+)"', str(error))
    if found is None or found[1] not in Settings.model_fields:
        return f"settings: {error}"
    name, variable = found[1], f"MAILECHO_{found[1].upper()}"
    if isinstance(Settings.model_fields[name].default, tuple):
        return f"""{name}: {variable} is a JSON list, for example {variable}='["mail.example.com"]'"""
    return (
        f"{name}: {variable} names a table of settings: set one of them by {variable}__NAME, "
        f"""and a list as JSON, for example {variable}__NAME='["one", "two"]'"""
    )


def _file_of(error: BaseException) -> str:
    """The settings file that was read, with its whole path; config.load notes it."""
    return next(iter(getattr(error, "__notes__", ())), "")


def _unexpected(error: BaseException) -> str:
    text = str(error).splitlines()
    return (
        f"internal error, {type(error).__name__}: {text[0] if text else ''}\n"
        "this is a bug: run it again with MAILECHO_DEBUG=1 and report the traceback"
    )
