"""up, worker, lander, serve: the roles, together or one by one."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailecho.pipeline.commands.base import RUN, Failed, explain, fail, is_refusal, settings_of

if TYPE_CHECKING:
    from mailecho.pipeline.config import Settings

EX_CONFIG = 78  # sysexits.h: as it is configured it will not run, and another try changes nothing

RoleDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        metavar="DIR",
        show_default=False,
        help="Where it keeps its store; the settings file mailecho.toml is looked for there.",
    ),
]
Processes = Annotated[int, typer.Option("--processes", min=1, help="How many, each a static group member.")]
worker_app = typer.Typer(no_args_is_help=True, help="A stream worker, against a configured Kafka.")


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.command(rich_help_panel=RUN)(up)
    app.add_typer(worker_app, name="worker", rich_help_panel=RUN)
    app.command(rich_help_panel=RUN)(lander)
    app.command(rich_help_panel=RUN)(serve)
    app.command(name="demo-traffic", hidden=True)(demo_traffic)


def up(
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir", metavar="DIR", help="Where everything is kept; made at first start.", show_default=False
        ),
    ] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Feed made-up sample traffic.")] = False,
    port: Annotated[
        int | None, typer.Option("--port", min=0, max=65535, help="Of API and status page; 0: a free one.")
    ] = None,
) -> None:
    """Run everything on this machine: Apache Kafka, ClickHouse, all roles, status page.

    Ctrl-C stops it; what is in the data directory stays. The first start downloads Kafka (45 MB).

    Example: [bold]mailecho up --data-dir ./data --demo[/bold]
    """
    from mailecho.pipeline import config
    from mailecho.pipeline.supervise.up import run_up

    settings = config.load(data_dir)
    if port is not None:
        settings = settings.model_copy(update={"api": settings.api.model_copy(update={"port": port})})
    raise typer.Exit(run_up(settings, demo=demo))


@worker_app.command()
def classify(processes: Processes = 1, data_dir: RoleDir = None) -> None:
    """Read the raw topics, classify, write feedback.classified. Stateless: run as many as you like.

    Example: [bold]MAILECHO_KAFKA__BOOTSTRAP_SERVERS=kafka:9092 mailecho worker classify --processes 4[/bold]
    """

    def run(settings: Settings) -> None:
        from mailecho.agents import classify_app

        classify_app.run(settings)

    _worker("classify", run, processes, data_dir)


@worker_app.command()
def ledger(processes: Processes = 1, data_dir: RoleDir = None) -> None:
    """Deduplicate, apply the policy, write feedback.events and feedback.suppressions.

    Keeps its store in the data directory; a lost store is rebuilt from Kafka.

    Example: [bold]mailecho worker ledger --data-dir /var/lib/mailecho[/bold]
    """

    def run(settings: Settings) -> None:
        from mailecho.agents import ledger_app

        ledger_app.run(settings)

    _worker("ledger", run, processes, data_dir)


def lander(
    resume: Annotated[
        bool, typer.Option("--resume", help="Only set the committed offsets to where ClickHouse's `landed` ends.")
    ] = False,
    data_dir: RoleDir = None,
) -> None:
    """Insert feedback.events into ClickHouse, each event once.

    It refuses to start where Kafka's offsets and ClickHouse disagree (one of them was restored or
    reset). --resume makes them agree: run it while no lander runs, then start the lander.

    Example: [bold]MAILECHO_CLICKHOUSE__URL=http://clickhouse:8123 mailecho lander[/bold]
    """

    def run(settings: Settings) -> None:
        if resume:
            from mailecho.pipeline.landing.resume import run as run_resume

            run_resume(settings)
            return
        from mailecho.pipeline.landing.lander import run as run_lander

        run_lander(settings)

    _role("lander", run, data_dir)


def serve(data_dir: RoleDir = None) -> None:
    """Serve the lookup API and the status page.

    Listens on api.host and api.port; any address but loopback needs api.token.

    Example: [bold]MAILECHO_API__PORT=8080 mailecho serve[/bold]
    """

    def run(settings: Settings) -> None:
        from mailecho.pipeline.serve.app import run as run_serve

        run_serve(settings)

    _role("serve", run, data_dir)


def demo_traffic(data_dir: RoleDir = None) -> None:
    """Feed sample traffic until stopped (what `up --demo` runs)."""

    def run(settings: Settings) -> None:
        import asyncio

        from mailecho.pipeline.demo import feed

        asyncio.run(feed(settings))

    _role("demo", run, data_dir)


def _worker(role: str, run: Callable[[Settings], None], processes: int, data_dir: Path | None) -> None:
    if processes == 1:
        _role(role, run, data_dir)
        return
    import asyncio

    from mailecho.pipeline.supervise.group import run_group, worker_specs

    settings = settings_of(data_dir)
    raise typer.Exit(asyncio.run(run_group(worker_specs(role, processes, settings))))


def _role(role: str, run: Callable[[Settings], None], data_dir: Path | None) -> None:
    """Run a role in this process.

    Ends with EX_CONFIG where a person must act (settings, or one of our own refusals), else with 1.
    """
    try:
        settings = settings_of(data_dir)
        from mailecho.pipeline import telemetry

        telemetry.setup(role, settings)
        run(settings)
    except SystemExit as stop:
        if not isinstance(stop.code, str):
            raise
        fail(Failed(stop.code), EX_CONFIG)  # a message instead of a code
    except Exception as error:
        if is_refusal(error):
            fail(error, EX_CONFIG)
        if explain(error) is None:
            # through the log, which masks addresses, and with its traceback: nobody can run it again by hand
            logging.getLogger("mailecho").critical("%s ends", role, exc_info=error)
            raise SystemExit(1) from None
        fail(error)
