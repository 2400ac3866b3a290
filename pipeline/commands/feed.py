"""classify, intake, dlq: from messages to findings, onto the raw topics, and back from the dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mailecho.pipeline.commands.base import (
    FEED,
    DataDir,
    Failed,
    Json,
    console,
    counted,
    note,
    print_json,
    settings_of,
)

if TYPE_CHECKING:
    from mailecho.pipeline.intake.record import RawRecord, Skipped, Tags

intake_app = typer.Typer(no_args_is_help=True, help="Put raw facts on the raw topics, as they are.")
dlq_app = typer.Typer(no_args_is_help=True, help="Dead letters: what could not be read, with its reason.")

Source = Annotated[
    str, typer.Option("--source", help="Who wrote these logs: mailecho or postfix; empty: see the content.")
]
Tenant = Annotated[str, typer.Option("--tenant", help="Whose mail it was.")]
Stream = Annotated[str, typer.Option("--stream", help="Which stream of mail of the tenant.")]
Topic = Annotated[
    str | None, typer.Option("--topic", show_default=False, help="Send all to this raw topic; else by content.")
]


class OnError(StrEnum):
    """What a redrive does with a letter that cannot be sent."""

    STOP = "stop"
    DROP = "drop"
    REINSERT = "reinsert"


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command(rich_help_panel=FEED)(classify)
    app.add_typer(intake_app, name="intake", rich_help_panel=FEED)
    app.add_typer(dlq_app, name="dlq", rich_help_panel=FEED)


def classify(
    paths: Annotated[list[str], typer.Argument(metavar="PATH…", help="Files, directories, mbox, maildir; - is stdin.")],
    jsonl: Annotated[bool, typer.Option("--jsonl", help="One JSON line per message and recipient.")] = False,
    processes: Annotated[
        int | None,
        typer.Option("--processes", min=1, show_default=False, help="So many; else one a core for more than 16 MB."),
    ] = None,
) -> None:
    """Classify messages; no broker is needed. Exit code 1 where a file could not be read.

    Lines come in the order of the input. [bold]mailecho explain[/bold] says why a message is what it is, and its trust.

    Example: [bold]mailecho classify bounces/ --jsonl | jq -r .cause | sort | uniq -c[/bold]
    """
    from mailecho.pipeline.classify.files import run_classify

    raise typer.Exit(run_classify(paths, jsonl, processes))


@intake_app.command(name="files")
def intake_files(
    paths: Annotated[list[str], typer.Argument(metavar="PATH…", help="Files and directories; - is stdin.")],
    source: Source = "",
    tenant: Tenant = "",
    stream: Stream = "",
    topic: Topic = None,
    data_dir: DataDir = None,
) -> None:
    """Send files: each mail is a record; logs (.log, .jsonl, or with --source) go in chunks of lines.

    Example: [bold]tail -n +1 -F /var/log/mail.log | mailecho intake files - --source postfix[/bold]
    """

    def records(tags: Tags) -> Iterable[RawRecord | Skipped | None]:
        from mailecho.pipeline.intake.files import file_records

        return file_records(paths, tags, topic=topic)

    _intake(records, source, tenant, stream, topic, data_dir)


@intake_app.command()
def maildir(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="With new/ and cur/.")],
    tenant: Tenant = "",
    stream: Stream = "",
    topic: Topic = None,
    data_dir: DataDir = None,
) -> None:
    """Send the new mails of a maildir; each is moved to cur/ once the broker has it. Safe to run again.

    Example: [bold]mailecho intake maildir /var/mail/bounces[/bold]
    """

    def records(tags: Tags) -> Iterable[RawRecord | Skipped]:
        from mailecho.pipeline.intake.maildir import maildir_records

        return maildir_records(directory, tags, topic=topic)

    _intake(records, "", tenant, stream, topic, data_dir)


@intake_app.command()
def mbox(
    file: Annotated[Path, typer.Argument(metavar="FILE")],
    tenant: Tenant = "",
    stream: Stream = "",
    topic: Topic = None,
    data_dir: DataDir = None,
) -> None:
    """Send the mails of an mbox file.

    Example: [bold]mailecho intake mbox bounces.mbox --tenant shop[/bold]
    """

    def records(tags: Tags) -> Iterable[RawRecord]:
        from mailecho.pipeline.intake.mbox import mbox_records

        return mbox_records(file, tags, topic=topic)

    _intake(records, "", tenant, stream, topic, data_dir)


@dlq_app.command(name="list")
def dlq_list(
    topic: Annotated[str | None, typer.Argument(show_default=False, help="Of this topic; of all without it.")] = None,
    reason: Annotated[str | None, typer.Option("--reason", show_default=False, help="Only of this reason.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = 100,
    every: Annotated[bool, typer.Option("--all", help="Also those that were sent back.")] = False,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """List dead letters: where each stands, why, and its first bytes. With --json one a line.

    Example: [bold]mailecho dlq list feedback.raw.delivery --reason unreadable[/bold]
    """
    from mailecho.pipeline.deadletters import list_dead_letters
    from mailecho.pipeline.endpoints import kafka_bootstrap

    _known(topic, reason)
    bootstrap = kafka_bootstrap(settings_of(data_dir))
    letters = asyncio.run(list_dead_letters(bootstrap, topic, reason=reason, limit=limit, include_redriven=every))
    out = console()
    for letter in letters:
        header = letter.header
        preview = letter.preview.decode("utf-8", "replace")
        if as_json:
            fields = header.model_dump(mode="json") if header else {}
            place = {"at": letter.where, "sent_back": letter.redriven}
            print_json({**place, **fields, "size": letter.size, "preview": preview})
        else:
            why = f"{header.reason}: {header.detail}" if header else "headers not readable"
            sent = "  (sent back)" if letter.redriven else ""
            if header and header.reinserted:
                sent += f"  (put back {header.reinserted} times)"
            out.print(f"{letter.where}{sent}  {why}\n    {preview[:100]!r}", markup=False, soft_wrap=True)
    note(counted(len(letters), "dead letter") + (f"; --limit shows more than {limit}" if len(letters) == limit else ""))


@dlq_app.command()
def redrive(
    topic: Annotated[str, typer.Argument(help="The topic whose dead letters go back.")],
    reason: Annotated[str | None, typer.Option("--reason", show_default=False, help="Only of this reason.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, show_default=False, help="At most so many.")] = None,
    on_error: Annotated[
        OnError,
        typer.Option(
            "--on-error", help="For a letter that cannot be sent: stop there, put it behind the others, drop."
        ),
    ] = OnError.STOP,
    for_good: Annotated[
        bool, typer.Option("--for-good", help="With --on-error drop: yes, no redrive will send what it drops.")
    ] = False,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Send dead letters back to where they came from, after the cause is mended. Goes on where it was stopped.

    Example: [bold]mailecho dlq redrive feedback.raw.dsn --reason unreadable[/bold]
    """
    from mailecho.pipeline import deadletters
    from mailecho.pipeline.endpoints import kafka_bootstrap

    _known(topic, reason)
    if (on_error is OnError.DROP) is not for_good:
        raise typer.BadParameter("drop and --for-good go together", param_hint="--on-error")
    bootstrap = kafka_bootstrap(settings_of(data_dir))
    with _progress("letters") as advance:
        counts = asyncio.run(
            deadletters.redrive(
                bootstrap,
                topic,
                reason=reason,
                limit=limit,
                on_error=on_error.value,
                progress=lambda done: advance(done.redriven),
            )
        )
    for line in counts.notes:
        note(line)
    values = {name: getattr(counts, name) for name in ("redriven", "skipped", "dropped", "reinserted")}
    if as_json:
        print_json(values)
    else:
        typer.echo("  ".join(f"{name} {value}" for name, value in values.items()))
    if counts.redriven:
        note(f"what fails again is a new dead letter: `mailecho dlq list {topic}` shows it")


def _known(topic: str | None, reason: str | None) -> None:
    """Raises BadParameter for the name of a topic without dead letters, or of no reason."""
    from mailecho.pipeline.deadletters import DeadLetterError, dead_letter_topics, known_reason

    try:
        dead_letter_topics(topic)
    except DeadLetterError as error:
        raise typer.BadParameter(str(error), param_hint="TOPIC") from None
    try:
        known_reason(reason)
    except DeadLetterError as error:
        raise typer.BadParameter(str(error), param_hint="--reason") from None


def _intake(
    records: Callable[[Tags], Iterable[Any]],
    source: str,
    tenant: str,
    stream: str,
    topic: str | None,
    data_dir: Path | None,
) -> None:
    from mailecho.pipeline.endpoints import kafka_bootstrap
    from mailecho.pipeline.intake.producer import produce
    from mailecho.pipeline.intake.record import Tags
    from mailecho.pipeline.sources import SOURCES
    from mailecho.schemas.topics import RAW

    source = source.strip().lower()
    if source and source not in SOURCES:
        raise typer.BadParameter(f"{source!r} is not one of {', '.join(SOURCES)}", param_hint="--source")
    if topic is not None and topic not in RAW:
        raise typer.BadParameter(f"{topic!r} is not one of {', '.join(RAW)}", param_hint="--topic")
    bootstrap = kafka_bootstrap(settings_of(data_dir))
    with _progress("records") as advance:
        counts = asyncio.run(
            produce(bootstrap, records(Tags(source, tenant, stream)), progress=lambda done: advance(done.records))
        )
    for skipped in counts.skipped:
        note(f"{skipped.file}: {skipped.reason}")
    by_topic = ", ".join(f"{count} to {name}" for name, count in sorted(counts.topics.items()))
    cut = f"; {counts.cut} larger than a record may be, their returned mail was cut" if counts.cut else ""
    typer.echo(f"{counted(counts.records, 'record')} sent{f' ({by_topic})' if by_topic else ''}{cut}")
    if counts.skipped:
        raise Failed(f"{counted(len(counts.skipped), 'file')} could not be read")


@contextmanager
def _progress(what: str) -> Iterator[Callable[[int], None]]:
    """A counter on standard error while something long runs, only for people."""
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    out = console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.completed:,.0f} " + what), TimeElapsedColumn())
    with Progress(*columns, console=out, transient=True, disable=not out.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done: bar.update(task, completed=done)
