"""Runs the comparison and reports it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from mailecho.pipeline.config import Settings
from mailecho.pipeline.emission import last_emission
from mailecho.pipeline.endpoints import kafka_bootstrap
from mailecho.pipeline.identity import load_identity
from mailecho.pipeline.landing.database import write_client
from mailecho.pipeline.ledger.fold import Fold
from mailecho.pipeline.ledger.places import Places
from mailecho.pipeline.ledger.policy import load_policy
from mailecho.pipeline.side import Side, committed_offsets, side_reader
from mailecho.pipeline.verify.again import Again, emission_faults
from mailecho.pipeline.verify.compare import compare_events, compare_later, compare_rollups, compare_suppressions
from mailecho.pipeline.verify.raw import Ends, compare_raw
from mailecho.schemas import headers as h
from mailecho.schemas import topics
from mailecho.schemas.deadletter import Reason

#: What is under way when verify starts is waited for this long at each step: only what has landed is compared.
PATIENCE_SECONDS = 120.0
#: The owner of a partition looks every 5 s at what a zombie may have written over its entries (`agents/guardian.py`):
#: so long, and for a rebalance before it, a difference of the list is not believed.
REPAIR_SECONDS = 15.0


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
    """Compare, also while the pipeline runs: what is there now is waited for, what comes later is not judged.

    `progress` is told (what is done now, by how much it went on). Raises StillBehind.
    """
    started = time.monotonic()
    report = Report()
    bootstrap = kafka_bootstrap(settings)
    partitions = settings.kafka.partitions
    client = await asyncio.to_thread(write_client, settings)
    try:
        async with side_reader(bootstrap) as side:
            raw_ends = await _ends(side, settings, topics.CLASSIFY_INPUT)
            await _passed(bootstrap, topics.GROUP_CLASSIFY, raw_ends)
            await _passed(bootstrap, topics.GROUP_LEDGER, await _ends(side, settings, (topics.CLASSIFIED,)))
            fold = Fold(
                settings.dedupe_windows, load_policy(settings.policy_file), keep_addresses=settings.addresses == "clear"
            )
            places = Places(load_identity(settings), partitions)
            parts = [Again(fold, places, p, (await side.span(topics.CLASSIFIED, p))[0]) for p in range(partitions)]
            await _fold(side, parts, progress)
            await _passed(bootstrap, topics.GROUP_LANDER, await _ends(side, settings, (topics.EVENTS,)))
            progress("comparing events", 0)
            rows = await asyncio.to_thread(compare_events, client, parts, await _rejected(side))
            report.differences += rows.differences
            if rows.unknown:
                await _fold(side, parts, progress)
            report.differences += compare_later(parts, rows)
            progress("comparing rollups", 0)
            report.differences += await asyncio.to_thread(compare_rollups, client)
            progress("comparing suppressions", 0)
            report.differences += await _settled(lambda: compare_suppressions(side, parts))
            for part in parts:
                report.differences += await emission_faults(side, part)
                if not part.whole:
                    report.horizon.append(
                        f"{topics.CLASSIFIED}[{part.partition}]: offsets below {part.start} have expired; "
                        "what came from them is not compared"
                    )
                for name, value in asdict(part.totals()).items():
                    report.totals[name] = report.totals.get(name, 0) + value
            report.classified_records = sum(part.end - part.start for part in parts)
            report.events = sum(len(part.rows) for part in parts)
            report.suppressions = sum(len(part.entries()) for part in parts)
            if from_raw:
                faults, report.raw_records = await compare_raw(
                    side, settings, raw_ends, lambda n: progress("reading raw topics again", n)
                )
                report.differences += faults
    finally:
        client.close()
    report.seconds = time.monotonic() - started
    return report


async def _settled(compare: Callable[[], Awaitable[list[str]]]) -> list[str]:
    """What differs, and goes on differing for as long as the owners need to put a zombie's writes right."""
    deadline = time.monotonic() + REPAIR_SECONDS
    while True:
        found = await compare()
        if not found or time.monotonic() > deadline:
            return found
        await asyncio.sleep(1.0)


async def _fold(side: Side, parts: list[Again], progress: Callable[[str, int], None]) -> None:
    """Fold every partition up to its last emission: the suppressions of all that are on their topic then."""
    for part in parts:
        emission = await last_emission(side, part.partition)
        if emission is not None:
            await part.go_on(side, emission.n + 1, lambda n: progress("folding classified", n))


async def _ends(side: Side, settings: Settings, names: tuple[str, ...]) -> Ends:
    ends = {}
    for name in names:
        for partition in range(1 if name == topics.COMMANDS else settings.kafka.partitions):
            ends[name, partition] = (await side.span(name, partition))[1]
    return ends


async def _passed(bootstrap: str, group: str, ends: Ends) -> None:
    """Return when the group has committed these ends."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        committed = await committed_offsets(bootstrap, group)
        behind = {place: end - committed.get(place, 0) for place, end in ends.items() if committed.get(place, 0) < end}
        if not behind:
            return
        if time.monotonic() > deadline:
            (topic, partition), lag = next(iter(behind.items()))
            raise StillBehind(
                f"{group} has not passed {lag} records of {topic}[{partition}] within {PATIENCE_SECONDS:.0f} s: "
                "see `mailecho status` for what does not run, and try again when it has caught up"
            )
        await asyncio.sleep(0.5)


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
