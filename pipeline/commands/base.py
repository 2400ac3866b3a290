"""What all commands share: which data they talk to, and how an error reads.

Exit codes: 0 done, 1 failed or refused, 2 wrong usage; a role that its settings forbid to start
exits with 78, so that whoever supervises it does not try in vain.
"""

from __future__ import annotations

import os
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
        from mailecho.pipeline.config import config_file

        return f"settings file {config_file() or 'mailecho.toml'} is not TOML: {error}"
    if origin.startswith("mailecho."):
        return str(error)
    if origin.startswith("pydantic_settings"):  # a value in the environment that should be JSON
        return f"settings: {error}"
    if origin.startswith("aiokafka"):
        return f"Kafka: {error or type(error).__name__}. Is the broker of MAILECHO_KAFKA__BOOTSTRAP_SERVERS up?"
    if origin.startswith("clickhouse_connect"):
        return f"ClickHouse: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return None


def _explain_validation(error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_url=False):
        path = [str(part) for part in problem["loc"]]
        name = ".".join(path) or error.title
        value = problem.get("input")
        shown = f" (it is {value!r})" if isinstance(value, str | int | float) else ""
        message = problem["msg"].removeprefix("Value error, ")
        setting = _where_set(path) if error.title == "Settings" else ""
        lines.append(f"{name}: {message}{shown}{setting}")
    return "\n".join(lines[:2])


def _where_set(path: list[str]) -> str:
    from mailecho.pipeline.config import config_file

    variable = f"MAILECHO_{'__'.join(path).upper()}"
    file = config_file()
    if file is None or variable in os.environ:
        return f", set by {variable}"
    return f", set in {file} (or by {variable})"


def _unexpected(error: BaseException) -> str:
    text = str(error).splitlines()
    return (
        f"internal error, {type(error).__name__}: {text[0] if text else ''}\n"
        "this is a bug: run it again with MAILECHO_DEBUG=1 and report the traceback"
    )
