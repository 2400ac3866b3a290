"""status, sql, verify, reconcile, topics, migrate, schema, version: running and checking it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mailecho.pipeline.commands.base import OPERATE, DataDir, Failed, Json, console, note, print_json, settings_of

if TYPE_CHECKING:
    from rich.table import Table

topics_app = typer.Typer(no_args_is_help=True, help="The Kafka topics.")
schema_app = typer.Typer(no_args_is_help=True, help="The contracts: JSON Schema and AsyncAPI.")


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command(rich_help_panel=OPERATE)(status)
    app.command(rich_help_panel=OPERATE)(sql)
    app.command(rich_help_panel=OPERATE)(verify)
    app.command(rich_help_panel=OPERATE)(reconcile)
    app.add_typer(topics_app, name="topics", rich_help_panel=OPERATE)
    app.command(rich_help_panel=OPERATE)(migrate)
    app.add_typer(schema_app, name="schema", rich_help_panel=OPERATE)
    app.command(rich_help_panel=OPERATE)(version)


def status(as_json: Json = False, data_dir: DataDir = None) -> None:
    """What has been counted, how far each part is behind, and which processes run.

    Exit code 1 where a part could not be asked.

    Example: [bold]mailecho status --json | jq .lag[/bold]
    """
    from mailecho.pipeline.status import collect

    found = asyncio.run(collect(settings_of(data_dir)))
    if as_json:
        print_json(found)
    else:
        _show_status(found)
    if "errors" in found:
        raise typer.Exit(1)


def sql(
    query: Annotated[str, typer.Argument(help="One read-only statement; - reads it from stdin.")],
    output: Annotated[
        str, typer.Option("--format", help="A ClickHouse format, for example JSONEachRow or CSVWithNames.")
    ] = "",
    data_dir: DataDir = None,
) -> None:
    """Ask ClickHouse. Tables: events, rollup_…, suppression_changes, landed.

    Example: [bold]mailecho sql "SELECT provider, count() FROM events WHERE kind = 'bounce' GROUP BY provider"[/bold]
    """
    from mailecho.pipeline.landing.database import query_text

    text = sys.stdin.read() if query == "-" else query
    default = "PrettyCompact" if sys.stdout.isatty() else "TabSeparatedWithNames"
    sys.stdout.write(query_text(settings_of(data_dir), text, output or default))


@topics_app.command(name="apply")
def topics_apply(data_dir: DataDir = None) -> None:
    """Create the topics that are missing and repair settings that differ. Safe to run again.

    Example: [bold]MAILECHO_KAFKA__BOOTSTRAP_SERVERS=kafka:9092 mailecho topics apply[/bold]
    """
    from mailecho.pipeline.endpoints import kafka_bootstrap
    from mailecho.pipeline.topics import apply_topics

    settings = settings_of(data_dir)
    changes = asyncio.run(apply_topics(kafka_bootstrap(settings), settings))
    for change in changes:
        typer.echo(str(change))
    if not changes:
        typer.echo("nothing to change")


@topics_app.command(name="grow")
def topics_grow(
    partitions: Annotated[int, typer.Option("--partitions", min=2, help="A multiple of what there is.")],
    data_dir: DataDir = None,
) -> None:
    """Add partitions to a system that holds data. Everything but the broker must stand still.

    Stop the classify workers, let the ledger fold what is there (`mailecho status`: lag 0), stop all roles, and run
    this with the old kafka.partitions. Then set kafka.partitions to the new number for every role and start them: the
    ledger rebuilds its stores. Raw topics may fill meanwhile. Killed half-way, run it again.

    Example: [bold]mailecho topics grow --partitions 8[/bold]
    """
    from mailecho.pipeline.growth import grow

    asyncio.run(grow(settings_of(data_dir), partitions, note))
    typer.echo(f"done: set kafka.partitions = {partitions} (MAILECHO_KAFKA__PARTITIONS={partitions}) for every role")


def migrate(data_dir: DataDir = None) -> None:
    """Create or bring up to date the ClickHouse tables, and how long they keep what. Safe to run again.

    Example: [bold]MAILECHO_CLICKHOUSE__URL=http://clickhouse:8123 mailecho migrate[/bold]
    """
    from mailecho.pipeline.landing.upgrade import upgrade

    done = upgrade(settings_of(data_dir))
    typer.echo("\n".join([*done.migrations, *done.retention]) or "nothing to apply")
    if done.events_before:
        note("there were events before: if a rollup is new, `mailecho reconcile --repair` makes it count them")


def reconcile(
    repair: Annotated[
        bool, typer.Option("--repair", help="Also mend what differs. Stop the landers first; suppressions go on.")
    ] = False,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Compute the rollups from the events again and report every difference; exit code 1 if one is left.

    Example: [bold]mailecho reconcile[/bold]
    """
    if repair:
        from mailecho.pipeline.landing.repair import run

        for difference in run(settings_of(data_dir)):
            note(f"mended: {difference}")
    from mailecho.pipeline.landing.database import write_client
    from mailecho.pipeline.landing.reconcile import reconcile_running

    # it only reads, but sets filters on the views' source, which the reader of the embedded engine may not
    client = write_client(settings_of(data_dir))
    try:
        differences = reconcile_running(client)
    finally:
        client.close()
    if as_json:
        print_json([_plain(difference) for difference in differences])
    else:
        typer.echo("\n".join(str(difference) for difference in differences) or "rollups and events agree")
    if differences:
        raise typer.Exit(1)


@schema_app.command()
def export(
    directory: Annotated[Path | None, typer.Argument(show_default=False, help="schemas/generated without it.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Change nothing; exit code 1 where a file differs.")] = False,
) -> None:
    """Write JSON Schema and AsyncAPI of everything on the topics.

    Example: [bold]mailecho schema export ./contracts[/bold]
    """
    from mailecho.schemas import export as contracts

    target = directory or Path(contracts.__file__).parent / "generated"
    if check:
        differing = contracts.check(target)
        if differing:
            raise Failed(f"{', '.join(differing)} in {target} differ: run `mailecho schema export`")
        return
    contracts.write(target)
    note(f"written to {target}")


def version() -> None:
    """Print the version.

    Example: [bold]mailecho version[/bold]
    """
    from importlib.metadata import version as version_of

    typer.echo(version_of("mailecho"))


def _plain(difference: Any) -> Any:
    from dataclasses import asdict, is_dataclass

    return asdict(difference) if is_dataclass(difference) and not isinstance(difference, type) else str(difference)


def _show_status(found: dict[str, Any]) -> None:
    from mailecho.pipeline.status import COUNTS
    from mailecho.pipeline.supervise.panel import process_table

    out = console()
    counts = _two_columns((name, found[name]) for name in COUNTS)
    for state, count in (found["suppressions"] or {}).items():
        counts.add_row(f"suppressions {state}", f"{count:,}")
    for topic, lag in (found["lag"] or {}).items():
        counts.add_row(f"lag {topic}", f"{lag:,}")
    counts.add_row("balanced", {True: "yes", False: "no, or on its way (see lag)", None: "?"}[found["balanced"]])
    out.print(counts)
    out.print()
    for name, where in found["endpoints"].items():
        out.print(f"{name}: {where or 'unknown'}", markup=False)
    if found["processes"]:
        out.print()
        out.print(process_table(found["processes"]))
    for part, reason in found.get("errors", {}).items():
        note(f"{part}: {reason}")


def _two_columns(rows: Any) -> Table:
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in rows:
        table.add_row(name, "?" if value is None else f"{value:,}")
    return table


def verify(
    from_raw: Annotated[bool, typer.Option("--from-raw", help="Also classify again what the raw topics keep.")] = False,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Fold feedback.classified again and compare events, rollups and suppressions with what stands.

    Exit code 1 where anything differs. What retention has taken cannot be recomputed; the report says what.

    Example: [bold]mailecho verify --from-raw[/bold]
    """
    from mailecho.pipeline.verify import run_verify

    raise typer.Exit(run_verify(settings_of(data_dir), from_raw=from_raw, as_json=as_json))
