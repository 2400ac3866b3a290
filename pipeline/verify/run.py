"""Runs the comparison and reports it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from mailecho.pipeline.config import Settings
from mailecho.pipeline.endpoints import kafka_bootstrap
from mailecho.pipeline.landing.database import write_client
from mailecho.pipeline.ledger.fold import Fold
from mailecho.pipeline.ledger.policy import load_policy
from mailecho.pipeline.side import Side, committed_offsets, side_reader
from mailecho.pipeline.verify.again import emission_faults, fold_again
from mailecho.pipeline.verify.compare import compare_events, compare_rollups, compare_suppressions
from mailecho.pipeline.verify.raw import compare_raw
from mailecho.schemas import headers as h
from mailecho.schemas import topics
from mailecho.schemas.deadletter import Reason

#: What is under way when verify starts is waited for this long: it can only compare what has landed.
PATIENCE_SECONDS = 120.0


@dataclass(slots=True)
class Report:
    """What was compared, what differs, and what could not be seen."""

    differences: list[str] = field(default_factory=list)
    horizon: list[str] = field(default_factory=list)
    classified_records: int = 0
    events: int = 0
    suppressions: int = 0
    raw_records: int = 0
    totals: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def exact(self) -> bool:
        """Whether nothing differs."""
        return not self.differences


class StillBehind(RuntimeError):
    """Something is still under way, so there is nothing to compare yet; the message says what."""


async def verify(
    settings: Settings, *, from_raw: bool = False, progress: Callable[[str, int], None] = lambda what, count: None
) -> Report:
    """Compare. `progress` is told (what is done now, by how much it went on). Raises StillBehind."""
    started = time.monotonic()
    report = Report()
    bootstrap = kafka_bootstrap(settings)
    client = await asyncio.to_thread(write_client, settings)
    try:
        async with side_reader(bootstrap) as side:
            await _settled(settings, bootstrap, side)
            partitions = settings.kafka.partitions
            fold = Fold(
                settings.dedupe_windows, load_policy(settings.policy_file), keep_addresses=settings.addresses == "clear"
            )
            parts = []
            for partition in range(partitions):
                part = await fold_again(side, fold, partition, lambda n: progress("folding classified", n))
                parts.append(part)
                report.differences += await emission_faults(side, part)
                if not part.whole:
                    report.horizon.append(
                        f"{topics.CLASSIFIED}[{partition}]: offsets below {part.start} have expired; "
                        "what came from them is not compared"
                    )
                for name, value in asdict(part.totals).items():
                    report.totals[name] = report.totals.get(name, 0) + value
            rejected = await _rejected(side)
            progress("comparing events", 0)
            report.differences += await asyncio.to_thread(compare_events, client, parts, rejected)
            progress("comparing rollups", 0)
            report.differences += await asyncio.to_thread(compare_rollups, client)
            progress("comparing suppressions", 0)
            report.differences += await compare_suppressions(side, parts)
            report.classified_records = sum(part.end - part.start for part in parts)
            report.events = sum(len(part.rows) for part in parts)
            report.suppressions = sum(len(part.entries) for part in parts)
            if from_raw:
                faults, report.raw_records = await compare_raw(
                    side, settings, partitions, lambda n: progress("reading raw topics again", n)
                )
                report.differences += faults
    finally:
        client.close()
    report.seconds = time.monotonic() - started
    return report


async def _settled(settings: Settings, bootstrap: str, side: Side) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        behind = await _behind(settings, bootstrap, side)
        if not behind:
            return
        if time.monotonic() > deadline:
            raise StillBehind(f"still under way: {', '.join(behind)}. Try again when `mailecho status` shows no lag")
        await asyncio.sleep(0.5)


async def _behind(settings: Settings, bootstrap: str, side: Side) -> list[str]:
    groups = (
        (topics.GROUP_CLASSIFY, topics.CLASSIFY_INPUT),
        (topics.GROUP_LEDGER, (topics.CLASSIFIED,)),
        (topics.GROUP_LANDER, (topics.EVENTS,)),
    )
    behind = []
    for group, names in groups:
        committed = await committed_offsets(bootstrap, group)
        for name in names:
            for partition in range(1 if name == topics.COMMANDS else settings.kafka.partitions):
                start, end = await side.span(name, partition)
                lag = end - max(committed.get((name, partition), start), start)
                if lag > 0:
                    behind.append(f"{lag} records of {name}[{partition}]")
    return behind


async def _rejected(side: Side) -> set[str]:
    ids = set()
    topic = topics.dlq(topics.EVENTS)
    start, end = await side.span(topic, 0)
    async for records in side.read(topic, 0, start, end):
        for record in records:
            if h.get(record.headers, h.REASON) == Reason.REJECTED and record.value:
                ids.add(str(orjson.loads(record.value).get("event_id")))
    return ids


def run_verify(settings: Settings, *, from_raw: bool = False, as_json: bool = False) -> int:
    """The command: prints the report, gives the exit code (0: no difference)."""
    console = Console(stderr=True)
    with Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed:,.0f} records"),
        TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal,
    ) as bar:  # fmt: skip
        task = bar.add_task("waiting until nothing is under way", total=None)
        report = asyncio.run(
            verify(settings, from_raw=from_raw, progress=lambda what, n: bar.update(task, description=what, advance=n))
        )
    if as_json:
        sys.stdout.write(orjson.dumps(_json(report), option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        _print(Console(), report, from_raw)
    return 0 if report.exact else 1


def _json(report: Report) -> dict[str, Any]:
    return {"exact": report.exact, **asdict(report)}


def _print(out: Console, report: Report, from_raw: bool) -> None:
    raw = f", {report.raw_records:,} raw records" if from_raw else ""
    out.print(
        f"folded {report.classified_records:,} records of classified again: {report.events:,} events, "
        f"{report.suppressions:,} suppression entries{raw} compared in {report.seconds:.1f} s",
        highlight=False,
    )
    for line in report.horizon:
        out.print(f"[yellow]not seen[/]: {line}", highlight=False)
    for line in report.differences:
        out.print(f"[red]difference[/]: {line}", highlight=False, markup=True)
    if report.exact:
        out.print("[green]no difference[/]", highlight=False)
    else:
        out.print(f"[red]{len(report.differences)} differences[/]", highlight=False)
