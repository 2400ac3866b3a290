"""What the commit of an offset carries: the watermark, and the range that is about to be inserted.

Kafka keeps a text beside each committed offset, in the same write (`offset.metadata.max.bytes`, 4096
by default). The lander says there what it will insert *before* it does, so that whoever goes on from
that offset forms exactly the same range and inserts it with the same deduplication token: ClickHouse
then drops what it already has, in the table and in everything fed by its views.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import Any

import orjson

#: Kafka's default for offset.metadata.max.bytes. What does not fit is not written: the lander stops.
METADATA_BYTES = 4096

#: An intent older than this is looked up before it is repeated. Repeating is what costs least and is
#: exact while ClickHouse remembers the token, so this only needs to be far below the time in which
#: other landers could push the token out of the window (see MOVED_ON_RANGES), and above any retry.
STALE_MS = 5 * 60 * 1000

#: A clock this far behind the one that wrote the intent cannot tell its age: look it up as well.
SKEW_MS = 60 * 1000

#: How many ranges may have landed since an intent, for its token to be surely remembered. The window
#: is 10,000 blocks a table and a range is one block for each day of `received_at` it touches: at most
#: as many days as `feedback.events` is retained and then some (15), so 600 x 15 blocks fit.
MOVED_ON_RANGES = 600

#: Ranges that land together: so many spans fit into the metadata beside all rows that may be refused.
MOST_TOGETHER = 16

#: Runs of row positions inside a range: (first, length), rising, none touching the next.
Runs = tuple[tuple[int, int], ...]


class IntentTooLarge(RuntimeError):
    """The commit's metadata would exceed what Kafka takes; the message says what to look at."""


def to_runs(positions: Iterable[int]) -> Runs:
    """Distinct row positions as runs. The order of `positions` does not matter."""
    ordered = sorted(set(positions))
    grouped = groupby(enumerate(ordered), key=lambda pair: pair[1] - pair[0])
    return tuple((first := [position for _, position in run], (first[0], len(first)))[1] for _, run in grouped)


def positions(runs: Runs) -> Iterator[int]:
    """The row positions of runs, rising."""
    for first, length in runs:
        yield from range(first, first + length)


def count(runs: Runs) -> int:
    """How many positions the runs hold."""
    return sum(length for _, length in runs)


@dataclass(frozen=True, slots=True)
class Span:
    """A range of another partition that lands with one's own: all that it takes to form it again."""

    partition: int
    start: int
    end: int
    timestamp: int
    watermark: int | None


@dataclass(frozen=True, slots=True)
class Intent:
    """The range that begins at the committed offset and is being inserted.

    `end` is the offset after its last record, `timestamp` that of its first record (epoch ms), `at`
    the time of this intent (epoch ms, the lander's clock). `refused` and `refused_changes` are rows
    that ClickHouse refuses and that are left out; `present` and `present_changes` are rows that it already
    had when an old intent was looked up. A `gap` has no records: they expired unread and an operator
    accepted it.

    An insert costs by its being one, not by its rows, so ranges of several partitions may land together. One of them
    leads: its intent names the `others`, in the order of the insert, and row positions count through all of them.
    The others' intents only say which partition they are `led_by`: whoever owns that one lands them all.
    """

    end: int
    timestamp: int
    at: int
    others: tuple[Span, ...] = ()
    led_by: int | None = None
    refused: Runs = ()
    refused_changes: Runs = ()
    present: Runs = ()
    present_changes: Runs = ()
    gap: bool = False

    def stale(self, now: int) -> bool:
        """Whether it must be looked up before it is inserted (again); `now` is epoch ms."""
        return not -SKEW_MS <= now - self.at <= STALE_MS


@dataclass(frozen=True, slots=True)
class Progress:
    """All that a commit says beside its offset.

    `watermark` is the emission number that the next one follows; None before the first. After a gap
    that an operator accepted, `jump` lets the next number be any higher one. Ranges that begin below
    `lookup_below` are looked up whatever their age, and the first of them may begin elsewhere than
    where `landed` ends (`resumed`): the `resume` command wrote it.
    """

    watermark: int | None = None
    jump: bool = False
    lookup_below: int = 0
    resumed: bool = False
    intent: Intent | None = None

    def dumps(self) -> str:
        """As commit metadata, about 60 bytes. Raises IntentTooLarge."""
        fields: dict[str, Any] = {"w": self.watermark}
        if self.jump:
            fields["j"] = 1
        if self.lookup_below:
            fields["l"] = self.lookup_below
        if self.resumed:
            fields["r"] = 1
        if self.intent is not None:
            intent = self.intent
            fields |= {"e": intent.end, "t": intent.timestamp, "at": intent.at}
            lists = {
                "x": intent.refused,
                "xc": intent.refused_changes,
                "p": intent.present,
                "pc": intent.present_changes,
            }
            fields |= {name: runs for name, runs in lists.items() if runs}
            if intent.gap:
                fields["g"] = 1
            if intent.others:
                fields["o"] = [[o.partition, o.start, o.end, o.timestamp, o.watermark] for o in intent.others]
            if intent.led_by is not None:
                fields["b"] = intent.led_by
        text = orjson.dumps(fields).decode()
        if len(text) > METADATA_BYTES:
            raise IntentTooLarge(
                f"the rows to leave out of one range need {len(text)} bytes of commit metadata, Kafka takes "
                f"{METADATA_BYTES}: so many refused rows are not bad rows but a wrong table. Compare the error of "
                "ClickHouse in this log with the schema (`mailecho migrate`), or lower lander.flush_rows"
            )
        return text

    @classmethod
    def loads(cls, text: str) -> Progress:
        """Read commit metadata. Raises ValueError where it is none of ours."""
        try:
            fields = orjson.loads(text)
            intent = None
            if "e" in fields:
                intent = Intent(
                    end=int(fields["e"]),
                    timestamp=int(fields["t"]),
                    at=int(fields["at"]),
                    refused=_runs(fields.get("x", ())),
                    refused_changes=_runs(fields.get("xc", ())),
                    present=_runs(fields.get("p", ())),
                    present_changes=_runs(fields.get("pc", ())),
                    gap=bool(fields.get("g")),
                    others=tuple(_span(*span) for span in fields.get("o", ())),
                    led_by=int(fields["b"]) if "b" in fields else None,
                )
            watermark = fields["w"]
            return cls(
                watermark=None if watermark is None else int(watermark),
                jump=bool(fields.get("j")),
                lookup_below=int(fields.get("l", 0)),
                resumed=bool(fields.get("r")),
                intent=intent,
            )
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{text[:100]!r} is no metadata of the lander") from error

    def after(self, offset: int, watermark: int | None) -> Progress:
        """The progress once the range up to `offset` has landed and moved the watermark."""
        return Progress(
            watermark=watermark,
            jump=(self.intent is not None and self.intent.gap) or (self.jump and watermark == self.watermark),
            lookup_below=self.lookup_below if offset < self.lookup_below else 0,
        )

    def with_intent(self, intent: Intent) -> Progress:
        """The same, with this intent."""
        return replace(self, intent=intent)


def _span(partition: Any, start: Any, end: Any, timestamp: Any, watermark: Any) -> Span:
    return Span(int(partition), int(start), int(end), int(timestamp), None if watermark is None else int(watermark))


def read(metadata: str) -> Progress | None:
    """The progress in a commit's metadata; None where it is none of ours."""
    try:
        return Progress.loads(metadata)
    except ValueError:
        return None


def _runs(value: Any) -> Runs:
    runs = tuple((int(first), int(length)) for first, length in value)
    if any(length < 1 for _, length in runs) or any(a + n >= b for (a, n), (b, _) in pairwise(runs)):
        raise ValueError(f"{value!r} are no runs")
    return runs


def token(topic: str, partition: int, start: int, intent: Intent, table: str, *, rest: bool = False) -> str:
    """The deduplication token of a range in a table, and of those that land with it.

    The timestamp keeps a recreated topic from repeating it. `rest`: rows that were present already are
    left out, so that this is another insert. Refused rows change nothing: none was inserted with them.
    """
    others = ""
    if intent.others:
        text = ",".join(f"{o.partition}:{o.start}-{o.end}:{o.timestamp}" for o in intent.others)
        others = f"+{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}"
    return f"{topic}:{partition}:{start}-{intent.end}:{intent.timestamp}{others}:{table}{':rest' if rest else ''}"
