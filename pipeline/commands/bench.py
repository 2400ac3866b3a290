"""bench: benchmarks, each against a baseline in the same run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mailecho.pipeline.commands.base import OPERATE, Failed, Json, console, print_json

if TYPE_CHECKING:
    from mailecho.pipeline.bench.harness import Progress, Result

bench_app = typer.Typer(no_args_is_help=True, help="Benchmarks, each against a baseline in the same run.")

Runs = Annotated[int, typer.Option("--runs", min=1, help="How often; the median counts.")]


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.add_typer(bench_app, name="bench", rich_help_panel=OPERATE)


@bench_app.command()
def classify(
    corpus: Annotated[
        str, typer.Option("--corpus", metavar="PATH", help="Messages to read; without it made-up reports.")
    ] = "",
    runs: Runs = 5,
    as_json: Json = False,
) -> None:
    """Messages a second of the full classification, one process, beside flufl.bounce and flanker's parse.

    Example: [bold]mailecho bench classify --corpus bounces/ --json[/bold]
    """

    def measure(progress: Progress) -> Result:
        from mailecho.pipeline.bench.classify import run

        return run(corpus, runs, progress)

    _bench(measure, as_json)


@bench_app.command()
def lookup(
    entries: Annotated[int, typer.Option("--entries", min=1, help="Of the map that is made for it.")] = 100_000,
    rate: Annotated[int, typer.Option("--rate", min=1, help="Single lookups a second, for the latency.")] = 2000,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="Of each measurement.")] = 3.0,
    runs: Runs = 5,
    as_json: Json = False,
) -> None:
    """Single lookups over HTTP for each CPU-second of the API, beside a bare handler; latency at a rate; bulk checks.

    Client and server share the machine: the latency is theirs only where two cores are free.

    Example: [bold]mailecho bench lookup --entries 1000000 --rate 5000[/bold]
    """

    def measure(progress: Progress) -> Result:
        from mailecho.pipeline.bench.lookup import run

        return run(entries, rate, seconds, runs, progress)

    _bench(measure, as_json)


@bench_app.command()
def latency(
    rate: Annotated[int, typer.Option("--rate", min=1, help="Raw records a second, one of 20 a hard bounce.")] = 1000,
    seconds: Annotated[
        float, typer.Option("--seconds", min=1, help="Of load: once for the CPU, once for the latency.")
    ] = 60.0,
    idle: Annotated[float, typer.Option("--idle", min=1, help="Seconds without load, for the CPU at rest.")] = 30.0,
    as_json: Json = False,
) -> None:
    """From a raw record to its row and to the lookup's denial; the CPU of every process at that rate and at rest.

    It starts a whole system of its own in a temporary directory, and removes it. Settings in the environment hold for
    it: compare MAILECHO_KAFKA__PACE_MS=10 or MAILECHO_LANDER__FLUSH_SECONDS=0.2 with the defaults. The latency counts
    from when a record was due until a question that found it was answered; questions go out every 20 ms.
    The baseline is a bare loop: getmany, parse, insert what came at once.

    Example: [bold]mailecho bench latency --rate 1000 --seconds 60 --json[/bold]
    """

    def measure(progress: Progress) -> Result:
        from mailecho.pipeline.bench.latency import run

        return run(rate, seconds, idle, progress)

    _bench(measure, as_json)


@bench_app.command()
def memory(
    events: Annotated[int, typer.Option("--events", min=1000, help="How many go through the system.")] = 10_000_000,
    samples: Annotated[
        Path | None, typer.Option("--samples", metavar="FILE", help="Write every sample there, tab separated.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Whether the memory of every process stays flat while many events go through a whole system.

    It starts a system of its own in a temporary directory, feeds it as fast as it takes it, and reads each process's
    anonymous memory every two seconds. The number that counts is MB per million events over the last 60 % of the run.
    It takes about a minute and 1 GB of disk for each million events on two cores that have nothing else to do.

    Example: [bold]mailecho bench memory --events 1000000 --samples memory.tsv[/bold]
    """
    from mailecho.pipeline.bench.memory import readable, run
    from mailecho.pipeline.bench.up import SystemFailed

    with _progress() as progress:
        try:
            result = run(events, samples, progress)
        except SystemFailed as error:
            raise Failed(str(error)) from error
    if as_json:
        print_json(result)
        return
    for row in readable(result):
        console().print(row, markup=False, soft_wrap=True)


@bench_app.command()
def landing(
    rows: Annotated[int, typer.Option("--rows", min=1, help="Of each measurement.")] = 200_000,
    insert_rows: Annotated[
        list[int] | None,
        typer.Option("--insert-rows", min=1, show_default=False, help="Rows of an insert; give several to choose."),
    ] = None,
    runs: Runs = 3,
    as_json: Json = False,
) -> None:
    """Rows through the lander's insert path for each CPU-second, beside a bare JSONEachRow insert over the same HTTP.

    It starts an embedded ClickHouse in a temporary directory and counts its CPU time too, merges included. Each size
    of insert is measured, by default 1,000 to 50,000 rows: `lander.flush_rows` and `flush_seconds` follow from it. The
    rows are counted at the end; a difference fails the benchmark.

    Example: [bold]mailecho bench landing --insert-rows 10000 --insert-rows 100000[/bold]
    """

    def measure(progress: Progress) -> Result:
        from mailecho.pipeline.bench.landing import SIZES, run

        return run(rows, insert_rows or [size for size in SIZES if size <= rows] or [rows], runs, progress)

    _bench(measure, as_json)


@bench_app.command()
def volume(
    events: Annotated[int, typer.Option("--events", min=1, help="Sent in each run, once singly, once in batches.")] = (
        1_000_000
    ),
    partitions: Annotated[int, typer.Option("--partitions", min=1, max=64, help="Of every topic.")] = 4,
    workers: Annotated[int, typer.Option("--workers", min=1, max=16, help="Classify and ledger processes each.")] = 1,
    runs: Runs = 3,
    as_json: Json = False,
) -> None:
    """Delivery events for each CPU-second, from the raw topic to rows counted in ClickHouse, beside a bare loop.

    Starts its own Kafka and ClickHouse in a temporary directory, fills the raw topic (60 % deliveries, 28 %
    injections, 7 % delays, 5 % bounces, over a million recipients), and runs the classify worker, the ledger worker
    and the lander over that backlog. CPU is of all threads of these and of ClickHouse; the broker's is told apart.
    The bare loop is one process that reads the same records and inserts the same rows into the same tables, and
    keeps no promise about them. It takes single records for the ratio, and records of 100 entries beside.

    With a row too few, too many or different it fails. A million events take about two minutes a run and form,
    4 GB of disk and 2 GB of memory; ratios of fewer than 100,000 are of starting, not of running.

    Example: [bold]mailecho bench volume --events 200000 --runs 1[/bold]
    """

    def measure(progress: Progress) -> Result:
        from mailecho.pipeline.bench.volume import run

        return run(events, runs, partitions, workers, progress)

    _bench(measure, as_json)


@bench_app.command()
def dsn(
    messages: Annotated[int, typer.Option("--messages", min=1, help="Distinct reports, made up.")] = 50_000,
    runs: Runs = 3,
    as_json: Json = False,
) -> None:
    """Mailed reports for each CPU-second of the workers, from the raw topic to rows counted in ClickHouse.

    Starts its own Kafka and ClickHouse in a temporary directory. The reports are made up, all different, 4.4 kB on
    average. Beside them a bare loop parses the same records with flanker (with flufl.bounce where that is
    installed) and does nothing with them. A row too few or too many fails it.

    Example: [bold]mailecho bench dsn --messages 20000 --runs 1[/bold]
    """

    def measure(progress: Progress) -> Result:
        from mailecho.pipeline.bench.dsn import run

        return run(messages, runs, progress)

    _bench(measure, as_json)


def _bench(measure: Callable[[Progress], Result], as_json: bool) -> None:
    from mailecho.pipeline.bench.harness import readable
    from mailecho.pipeline.bench.up import SystemFailed

    with _progress() as progress:
        try:
            result = measure(progress).as_dict()
        except (SystemFailed, ValueError) as error:
            raise Failed(str(error)) from error
    if as_json:
        print_json(result)
        return
    for label, value in readable(result):
        console().print(f"{label:<20} {value}", markup=False, soft_wrap=True)


#: Where nobody watches, a line so often: enough to see in a log that it goes on.
_LINE_SECONDS = 10.0


@contextmanager
def _progress() -> Iterator[Progress]:
    """What is being measured, on standard error: one line that changes, or a line now and then in a log."""
    out = console(stderr=True)
    if out.is_terminal:
        with out.status("bench") as status:
            yield status.update
        return
    last = time.monotonic()

    def say(what: str) -> None:
        nonlocal last
        if time.monotonic() - last >= _LINE_SECONDS:
            last = time.monotonic()
            out.print(what, markup=False, soft_wrap=True)

    yield say
